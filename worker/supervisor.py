"""Runs one attempt of a job: starts the child, keeps the lease, publishes, and ends it.

The child trains and writes to its scratch directory, whatever happens here. When Redis or
storage cannot be reached the supervisor goes on looking after the child and publishes later;
when a newer attempt exists it kills the child and leaves no trace.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from jobs.errors import STORE_AWAY, JobNotFoundError, StaleAttemptError
from jobs.messages import Messenger
from jobs.record import Attempt, Job, Progress
from jobs.rules import steps_recomputed
from jobs.settings import Settings
from jobs.states import Reason, Request
from jobs.store import JobStore
from monitoring.files import write_atomically
from monitoring.storage import Fence, OvertakenError, Storage, StorageError
from worker.background import Background
from worker.child import Child
from worker.launch import CannotLaunchError, Slot, prepare
from worker.observe import Observer
from worker.outcome import BY_REQUEST, Intent, Outcome, outcome
from worker.publish import Publisher
from worker.scratch import Restored, Scratch, restore

log = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
_RETRY_SECONDS = 0.5
# A store that is away for so long at the end of an attempt fails it.
_STORAGE_PATIENCE_SECONDS = 900.0
# The kill leaves so much of the grace for the end of the attempt, besides the last upload.
_MARGIN_SECONDS = 2.0


class Overtaken(Exception):  # noqa: N818 - nothing went wrong with this attempt
    """Another attempt has the job: stop without a word."""


@dataclass
class Attendance:
    """Whether this worker was told to stop, and what wakes its supervisor."""

    wake: threading.Event = field(default_factory=threading.Event)
    stop_since: float | None = None  # time.monotonic

    def stop(self) -> None:
        """Asks the attempt under way to end; may be called by a signal handler."""
        if self.stop_since is None:
            self.stop_since = time.monotonic()
        self.wake.set()


@dataclass(frozen=True)
class Service:
    """What a worker process has for all its attempts."""

    settings: Settings
    store: JobStore
    messenger: Messenger
    storage: Storage
    slot: Slot
    attendance: Attendance


def supervise(service: Service, job: Job) -> None:
    """Runs the job's current attempt to its end."""
    log.info("job %s: attempt %d starts", job.id, job.attempt)
    scratch = Scratch(service.settings.scratch_dir, job.id, job.attempt)
    try:
        with scratch.held():
            _Attempt(service, job, scratch).run()
    except (Overtaken, OvertakenError, StaleAttemptError, JobNotFoundError):
        log.warning("job %s: attempt %d was overtaken", job.id, job.attempt)


class _Attempt:
    """One attempt; whatever raises `Overtaken` or the like is final."""

    def __init__(self, service: Service, job: Job, scratch: Scratch) -> None:
        self._service = service
        self._job = job
        self._scratch = scratch
        self._progress = Progress()
        self._request: Request | None = None
        self._intent: Intent | None = None
        self._kill_at: float | None = None  # time.monotonic
        self._lease = self._background("Redis", self._renew)

    def run(self) -> None:
        """Prepares, attends and ends the attempt, its lease kept all the while."""
        self._lease.start()
        try:
            ended = self._run_child()
            self._finish(ended)
        finally:
            self._lease.stop()

    def _run_child(self) -> Outcome:
        try:
            restored = self._restore()
            launch = prepare(self._job, self._scratch, self._service.slot, self._service.settings)
        except CannotLaunchError as error:
            return Outcome(Reason.ERROR, str(error), retryable=False)
        except OvertakenError:
            raise
        except (OSError, StorageError) as error:
            return Outcome(Reason.STORAGE, f"could not restore the run: {error}")
        fence = Fence(self._job.id, self._job.attempt)
        publisher = Publisher(self._service.storage, self._scratch, fence, restored)
        publisher.say(f"{_now()} attempt {self._job.attempt} starts {_start(restored)}")
        publication = self._background("storage", publisher.publish)
        child = Child(
            launch.command,
            env=launch.env,
            cwd=launch.cwd,
            output=self._scratch.output,
            on_exit=self._service.attendance.wake.set,
        )
        try:
            publication.start()
            exit_code = self._attend(child, publisher, publication, restored)
        finally:
            child.kill()
            child.wait()
            publication.stop()
        lines = _last_lines(self._scratch)
        tells = self._job.spec.train is not None
        ended = outcome(exit_code, self._intent, lines, says_when_done=tells)
        return self._publish_last(publisher, ended)

    # -- before -----------------------------------------------------------------------------

    def _restore(self) -> Restored:
        storage, run = self._service.storage, self._scratch.run
        storage.seize(Fence(self._job.id, self._job.attempt))
        restored = restore(storage, self._job.id, run)
        if not run.job.exists():
            text = self._job.model_dump_json(include={"id", "spec", "submitted_at"}, indent=2)
            write_atomically(run.job, text.encode())
        # Who was killed could not write its own receipt.
        for attempt in self._job.attempts[:-1]:
            if storage.stat(f"{self._job.id}/attempts/{attempt.number}.json") is None:
                self._write_receipt(attempt)
        return restored

    # -- during -----------------------------------------------------------------------------

    def _attend(
        self, child: Child, publisher: Publisher, publication: Background, restored: Restored
    ) -> int:
        """The child's exit code, after looking after it once a second or when woken."""
        attendance = self._service.attendance
        observer = Observer(self._job.spec, self._scratch, restored)
        started = time.monotonic()
        while True:
            code = child.exit_code
            self._progress = observer.progress()
            if code is not None:
                return code
            if self._lease.overtaken or publication.overtaken:
                raise Overtaken
            if attendance.stop_since is not None:
                self._stop(child, Intent.SHUTDOWN, publisher, since=attendance.stop_since)
            if self._request is not None:
                self._stop(child, BY_REQUEST[self._request], publisher)
            ran = self._job.run_seconds + time.monotonic() - started
            if (violation := observer.violation(ran)) is not None:
                self._stop(child, violation, publisher)
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                child.kill()
            attendance.wake.wait(_TICK_SECONDS)
            attendance.wake.clear()

    def _stop(
        self, child: Child, intent: Intent, publisher: Publisher, *, since: float | None = None
    ) -> None:
        """Asks the child to leave, once; the weightiest of several reasons counts."""
        first = self._intent is None
        if self._intent is None or intent.value > self._intent.value:
            self._intent = intent
        if first:
            # The child has what the last upload will leave of the grace.
            reserve = publisher.last_seconds + _MARGIN_SECONDS
            grace = max(self._service.settings.grace_seconds - reserve, 0.0)
            self._kill_at = (time.monotonic() if since is None else since) + grace
            log.info("job %s: asking the child to stop (%s)", self._job.id, intent.name.lower())
            child.terminate()

    def _renew(self) -> None:
        store = self._service.store
        request = store.renew(self._job.id, self._job.attempt, self._progress)
        if request is not self._request:
            self._request = request
            self._service.attendance.wake.set()

    def _background(self, name: str, action: Callable[[], None]) -> Background:
        seconds = min(_TICK_SECONDS, self._service.settings.lease_seconds / 5)
        return Background(name, action, seconds=seconds, on_overtaken=self._service.attendance.wake)

    # -- after ------------------------------------------------------------------------------

    def _publish_last(self, publisher: Publisher, ended: Outcome) -> Outcome:
        """Publishes what is left and how it ended, waiting for a store that is away."""
        self._write_receipt(self._receipt(ended, time.time()))
        why = f" ({ended.message})" if ended.message else ""
        publisher.close(f"{_now()} attempt {self._job.attempt} ended: {ended.reason}{why}")
        last = self._background("storage", publisher.publish)
        deadline = time.monotonic() + _STORAGE_PATIENCE_SECONDS
        while not last.call():
            if self._lease.overtaken or last.overtaken:
                raise Overtaken
            stop_since = self._service.attendance.stop_since
            if stop_since is not None:
                deadline = min(deadline, stop_since + self._service.settings.grace_seconds)
            if time.monotonic() > deadline:
                message = "the last results could not be saved: storage was away"
                return Outcome(Reason.STORAGE, message, ended.exit_code)
            time.sleep(_RETRY_SECONDS)
        return ended

    def _finish(self, ended: Outcome) -> None:
        """Writes the end, however long Redis is away, and wakes a worker for what is queued."""
        store, told = self._service.store, False
        while True:
            try:
                receipt = self._receipt(ended, store.now())
                job = store.finish(self._job.id, receipt, retryable=ended.retryable)
                self._service.messenger.flush(store.now())
            except STORE_AWAY as error:
                if not told:
                    log.warning("job %s: cannot write its end yet: %s", self._job.id, error)
                told = True
                time.sleep(_RETRY_SECONDS)
            else:
                state = job.state if job else "unknown"
                log.info("job %s: attempt %d %s, the job is %s",
                         self._job.id, receipt.number, receipt.reason, state)  # fmt: skip
                return

    def _receipt(self, ended: Outcome, at: float) -> Attempt:
        seen = self._progress
        return self._job.attempts[-1].model_copy(
            update={
                "ended_at": at,
                "reason": ended.reason,
                "message": ended.message,
                "exit_code": ended.exit_code,
                "resumed_from": seen.resumed_from,
                "resumed_checksum": seen.resumed_checksum,
                "first_step": seen.first_step,
                "last_step": seen.step,
                "steps_recomputed": steps_recomputed(self._job, seen.resumed_from, seen.step),
                "checkpoint_step": seen.checkpoint_step,
                "log_tail": list(ended.log_tail),
            }
        )

    def _write_receipt(self, attempt: Attempt) -> None:
        path = self._scratch.run.attempt(attempt.number)
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, attempt.model_dump_json(indent=2).encode())


def _start(restored: Restored) -> str:
    if restored.checkpoint is None:
        return "from the beginning"
    return f"from the checkpoint of step {restored.checkpoint.step}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _last_lines(scratch: Scratch) -> list[str]:
    """The last 16 KiB of the child's output, by lines."""
    with scratch.output.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 16384))
        return file.read().decode(errors="replace").splitlines()
