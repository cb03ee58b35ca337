"""Watches the processes of an attempt: its lease, its limits, its log, and what asks it to stop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import TypeVar

from monitoring.files import open_file
from worker.attempt.background import Background
from worker.attempt.context import WorkerContext
from worker.attempt.lease import Lease
from worker.attempt.observe import Observer
from worker.attempt.outcome import StopReason
from worker.attempt.preparation.meanwhile import meanwhile
from worker.attempt.reporting import Reporter
from worker.attempt.retry import TICK_SECONDS, Overtaken
from worker.attempt.stopping import Stopping
from worker.files.publish import Publisher
from worker.files.scratch import Scratch
from worker.launch.child import Child, Start
from worker.launch.command import Launch
from worker.launch.group import Group
from worker.losses.note import NoteFile

Result = TypeVar("Result")


class Watch:
    """Starts processes of one attempt and watches them, one after the other.

    Its methods raise `Overtaken` once a newer attempt has the job.
    """

    def __init__(
        self,
        context: WorkerContext,
        scratch: Scratch,
        *,
        lease: Lease,
        stopping: Stopping,
        reporter: Reporter,
        note: NoteFile | None,
        publisher: Publisher,
        publication: Background,
        observer: Observer,
        group: Group,
    ) -> None:
        self._context = context
        self._scratch = scratch
        self._lease = lease
        self._stopping = stopping
        self._reporter = reporter
        self._note = note
        self._publisher = publisher
        self._publication = publication
        self._observer = observer
        self._group = group
        self._abandoned = False
        self._child: Child | None = None

    def guard(self) -> int | None:
        """The id of the process above all those of the attempt now; any thread may ask."""
        return self._child.guard if self._child is not None else None

    def is_wanted(self) -> bool:
        """Whether the attempt still goes on; any thread may ask."""
        return not self._abandoned and self._stopping.is_wanted()

    def child(self, launch: Launch, start: Start | None = None) -> Child:
        """Starts a process of the attempt, by default as this worker starts programs."""
        self._child = Child(
            launch.command,
            env=launch.env,
            cwd=launch.cwd,
            output=self._scratch.output,
            on_exit=self._context.shutdown_state.wake.set,
            start=start or self._context.start,
            stop_signal=launch.stop_signal,
            note=self._note.path if self._note else None,
            group=self._group.path,
            rights=self._context.rights,
        )
        return self._child

    def until_ended(self, child: Child) -> int:
        """The child's exit code; until then checks it and its limits each second and when woken."""
        while True:
            code = child.exit_code
            self._look_after()
            if code is not None:
                return code
            self._check_place()
            if (reason := self._stopping.asked) is not None:
                self._stopping.request(child, reason, self._publisher.longest_seconds)
            self._reporter.advise(self._publisher)
            self._reporter.refuse(self._publisher)
            if (violation := self.violation() or self._disk()) is not None:
                self._stopping.request(child, violation, self._publisher.longest_seconds)
            self._stopping.kill_when_due(child)
            self._wait()

    def meanwhile(self, action: Callable[[], Result]) -> Result:
        """The result of `action`, which ends when `is_wanted` says so; watches the attempt."""

        def watch() -> None:
            self._look_after()
            self._check_place()
            if (violation := self.violation()) is not None:
                self._stopping.note(violation)
            self._wait()

        try:
            return meanwhile(action, watch, abandon=self._abandon,
                             wake=self._context.shutdown_state.wake)  # fmt: skip
        finally:
            self._look_after()

    def say(self, line: str) -> None:
        """Adds a line to the log of the run, between what processes print before and after it."""
        try:
            with open_file(self._scratch.output, "ab") as file:
                file.write(f"--- {line}\n".encode())
        except OSError:  # a full disk
            self._publisher.add_line(line)

    def violation(self) -> StopReason | None:
        """The limit that the attempt violates."""
        found = self._observer.violation(self._lease.limits, self._reporter.run_seconds)
        # A program that saves because it was asked to stop makes no step: that is not a stall.
        return None if found is StopReason.STALL and self._stopping.reason is not None else found

    def _look_after(self) -> None:
        """What is due at any time."""
        self._reporter.report(self._observer, self._publisher)
        if self._note is not None:
            self._note.update()
        self._publisher.note_followed(self._lease.is_followed)
        with contextlib.suppress(OSError):
            self._publisher.trim_output()

    def _check_place(self) -> None:
        if self._lease.overtaken or self._publication.overtaken:
            raise Overtaken

    def _disk(self) -> StopReason | None:
        limits = (self._lease.limits.disk_bytes, self._context.settings.run_bytes or None)
        limit = min((each for each in limits if each is not None), default=math.inf)
        return StopReason.DISK if self._publisher.bytes_here > limit else None

    def _wait(self) -> None:
        self._context.shutdown_state.wake.wait(TICK_SECONDS)
        self._context.shutdown_state.wake.clear()

    def _abandon(self) -> None:
        self._abandoned = True
