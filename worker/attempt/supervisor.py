"""Runs one attempt of a job: restores it, runs its child, keeps the lease, publishes, and ends it.

The child trains and writes to its scratch directory, whatever happens here. While Redis or storage
is unreachable, the supervisor keeps watching the child and publishes later; when a newer attempt
has the job, it kills the child and writes nothing more.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from jobs.errors import JobNotFoundError, StaleAttemptError
from jobs.model.record import Job
from jobs.model.states import Reason
from monitoring.files import write_atomically
from monitoring.storage.base import Fence, OvertakenError
from monitoring.storage.moments import Moments
from worker.attempt.background import Background
from worker.attempt.context import WorkerContext
from worker.attempt.ending import Ending, log_time
from worker.attempt.lease import MAX_PAUSE, Lease
from worker.attempt.observe import Observer, restarted
from worker.attempt.outcome import (
    INVALIDATING,
    STOP_REASONS,
    Outcome,
    StopReason,
    outcome,
    stopped_before_start,
)
from worker.attempt.preparation.code import AttemptCode
from worker.attempt.preparation.found import Found
from worker.attempt.preparation.place import place_of
from worker.attempt.receipts import Receipts
from worker.attempt.reporting import Reporter
from worker.attempt.retry import TICK_SECONDS, Overtaken, StorageRetry, storage_calls
from worker.attempt.stopping import Stopping
from worker.failures.going_back import moment_to_avoid
from worker.files.output import last_lines
from worker.files.publish import Publisher
from worker.files.restore import restore, rewind
from worker.files.resuming import has_something_to_resume
from worker.files.scratch import Restored, Scratch
from worker.launch.child import Child
from worker.launch.command import Launch
from worker.launch.group import Group, group_of_attempt
from worker.launch.prepare import CannotLaunchError, prepare
from worker.losses.note import Note, NoteFile, noted
from worker.progress.reader import ProgressReader

log = logging.getLogger(__name__)

# During the training; the last publication runs at normal priority.
PUBLICATION_NICE = 10


def supervise(context: WorkerContext, job: Job) -> None:
    """Runs the job's current attempt to its end."""
    log.info("job %s: attempt %d starts", job.id, job.attempt)
    lease = Lease(context, job)
    lease.start()
    try:
        scratch = place_of(context.settings.scratch_dir, job)
        attempt = _Attempt(context, job, scratch, lease)
        note = Note.here(job.id, job.attempt, job.worker or "", scratch.steps)
        try:
            with noted(context.settings.scratch_dir, note) as attempt.note, scratch.held():
                attempt.run()
        except OSError as error:
            message = f"the worker cannot write to its scratch disk: {error}"
            attempt.ending.finish(Outcome(Reason.STORAGE, message))
    except JobNotFoundError:
        log.warning(
            "job %s: Redis has no record of it, so attempt %d cannot end; if Redis was reset, "
            "`spectrain reindex` restores the record from storage",
            job.id, job.attempt,
        )  # fmt: skip
    except (Overtaken, OvertakenError, StaleAttemptError):
        log.warning("job %s: attempt %d was overtaken by a newer one", job.id, job.attempt)
    finally:
        lease.stop()


class _Attempt:
    """One attempt; it ends without a trace once `Overtaken` or the like is raised."""

    def __init__(self, context: WorkerContext, job: Job, scratch: Scratch, lease: Lease) -> None:
        self._context = context
        self._job = job
        self._scratch = scratch
        self.note: NoteFile | None = None
        self._avoided: str | None = None
        self._stopping = Stopping(context, job.id)
        self._lease = lease
        self._code = AttemptCode(context, job, self._is_wanted)
        self._receipts = Receipts(job, scratch.run)
        self._reporter = Reporter(context, job, self._lease)
        self._retry = StorageRetry(context, self._lease, self._stopping)
        self.ending = Ending(
            context, job, lease=self._lease, stopping=self._stopping, receipts=self._receipts,
            reporter=self._reporter, retry=self._retry,
        )  # fmt: skip

    def run(self) -> None:
        """Runs the attempt to its end."""
        self.ending.finish(self._outcome())

    def _outcome(self) -> Outcome:
        try:
            return self._prepare_and_run()
        except (Overtaken, OvertakenError, StaleAttemptError, JobNotFoundError):
            raise
        except Exception as error:  # a fault of ours, not of the job: it is retried
            log.exception(
                "job %s: the supervisor of attempt %d failed", self._job.id, self._job.attempt
            )
            return Outcome(Reason.ERROR, f"the supervisor failed: {error!r}")

    def _prepare_and_run(self) -> Outcome:
        fetched = self._retry(self._code.fetch, worthwhile=self._is_wanted)
        try:
            return self._without_code(fetched=fetched) or self._restore_and_run()
        finally:
            self._code.close()

    def _without_code(self, *, fetched: bool) -> Outcome | None:
        """The outcome of an attempt whose code could not be fetched; None if it is there."""
        if self._code.is_there:
            return None
        if (stop_reason := self._stop_reason()) is not None:
            return self._with_notice(stopped_before_start(stop_reason), stop_reason)
        why = "storage was unavailable" if not fetched else "it was interrupted"
        return self._code.failure or Outcome(
            Reason.STORAGE, f"the code could not be fetched: {why}"
        )

    def _restore_and_run(self) -> Outcome:
        restored: list[Restored | None] = []
        succeeded = self._retry(
            lambda: restored.append(self._restore()), worthwhile=self._is_wanted
        )
        if (stop_reason := self._stop_reason()) is not None:
            return self._with_notice(stopped_before_start(stop_reason), stop_reason)
        if not succeeded or restored[0] is None:
            return Outcome(Reason.STORAGE, "the run could not be restored: storage was unavailable")
        self._reporter.workspace_seconds = self._code.seconds
        self._reporter.restore_seconds = self._reporter.seconds - (self._code.seconds or 0.0)
        self._code.close()
        try:
            launch = prepare(
                self._job, self._scratch, self._context.slot, self._context.settings,
                resumed=self._is_resumed(restored[0]),
            )  # fmt: skip
        except CannotLaunchError as error:
            return Outcome(Reason.ERROR, str(error), words=str(error))
        with group_of_attempt(f"{self._job.id}.{self._job.attempt}") as group:
            return self._run_child(launch, restored[0], group)

    def _is_resumed(self, restored: Restored) -> bool:
        patterns = self._job.spec.resume_when
        return has_something_to_resume(restored, self._scratch.run, patterns)

    def _restore(self) -> Restored | None:
        storage, run = self._context.storage, self._scratch.run
        storage.seize(Fence(self._job.id, self._job.attempt))
        self._scratch.empty()
        self._avoided = moment_to_avoid(self._job, Moments(storage, self._job.id).all)
        restored = restore(
            storage,
            self._job.id,
            run,
            keeps_records=self._job.spec.train is not None,
            before=self._avoided,
            wanted=self._is_wanted,
            place=partial(self._code.place, run.root),
        )
        if restored is None:
            return None
        self._receipts.moment = restored.moment.name if restored.moment else None
        self._reporter.found = Found.of(restored)
        if self._job.spec.restart == "from_checkpoint":
            rewind(run, restored, self._job.attempt)
        if not run.job.exists():
            text = self._job.model_dump_json(include={"id", "spec", "submitted_at"}, indent=2)
            write_atomically(run.job, text.encode())
        self._receipts.write_missing(storage)
        return restored

    def _run_child(self, launch: Launch, restored: Restored, group: Group) -> Outcome:
        guarded = self._job.spec.restart == "from_checkpoint"
        publisher = Publisher(
            self._context.storage, self._scratch, Fence(self._job.id, self._job.attempt), restored,
            max_pause=self._context.settings.lease_seconds * MAX_PAUSE, confirm=self._lease.confirm,
            invalid=lambda: guarded and restarted(self._scratch, restored, undecided=True),
            exclude=self._job.spec.keep.exclude,
        )  # fmt: skip
        for line in self._first_lines(restored):
            publisher.add_line(line)
        publication = storage_calls(self._context, publisher.publish, nice=PUBLICATION_NICE)
        reader = ProgressReader(
            self._job.spec, self._scratch, restored, publisher.curves, lambda: publisher.seen
        )
        reading = self._reading(reader.advance)
        observer = Observer(
            self._job.spec, self._scratch, restored, self._reporter.begun, lambda: reader.reading
        )
        child = Child(
            launch.command,
            env=launch.env,
            cwd=launch.cwd,
            output=self._scratch.output,
            on_exit=self._context.shutdown_state.wake.set,
            start=self._context.start,
            stop_signal=launch.stop_signal,
            note=self.note.path if self.note else None,
            group=group.path,
        )
        try:
            publication.start()
            reading.start()
            exit_code = self._watch(child, publisher, publication, observer)
        finally:
            child.end()
            publication.stop()
            reading.stop()
        self._reading(lambda: reader.finish(publisher.look)).call()
        self._reporter.report(observer, publisher)
        if (fault := self._violation(observer)) in INVALIDATING:
            self._stopping.note(fault)
        if not publisher.is_in_place:  # a newer attempt has moved it aside, or the program has
            self._lease.confirm(time.monotonic())
        ended = outcome(
            exit_code,
            self._stopping.reason,
            last_lines(self._scratch.output),
            zero_means_done=self._job.spec.train is not None,
            out_of_memory=group.out_of_memory(),
        )
        ended = self._with_notice(ended, self._stopping.reason)
        return self.ending.publish(publisher, ended, orderly=child.is_orderly)

    def _reading(self, action: Callable[[], None]) -> Background:
        """Calls of `action`, which reads what the program says of its progress."""
        return Background(
            "the progress of the program", action, seconds=TICK_SECONDS,
            on_overtaken=self._context.shutdown_state.wake, nice=PUBLICATION_NICE,
        )  # fmt: skip

    def _first_lines(self, restored: Restored) -> Iterator[str]:
        """What the log of the run says at the beginning of the attempt."""
        number, spec = self._job.attempt, self._job.spec
        start = Found.of(restored).line(restored.checkpoint, time.time())
        yield f"{log_time()} attempt {number} starts {start}"
        if (code := self._code.line()) is not None:
            yield code
        avoided, moment = self._avoided, restored.moment
        if avoided is not None and moment is not None and moment.name < avoided:
            because = f"attempt {number - 1} failed before its first step"
            yield f"from an older moment of the run: {because}"
        if self._is_resumed(restored) and (spec.resume_command or spec.resume_args):
            which = "resume_command" if spec.resume_command else "resume_args"
            yield f"with {which}: {json.dumps(spec.resume_command or spec.resume_args)}"

    def _watch(
        self, child: Child, publisher: Publisher, publication: Background, observer: Observer
    ) -> int:
        """The child's exit code; until then checks it and its limits each second and when woken."""
        shutdown_state = self._context.shutdown_state
        while True:
            code = child.exit_code
            self._reporter.report(observer, publisher)
            if self.note is not None:
                self.note.update()
            publisher.note_followed(self._lease.is_followed)
            with contextlib.suppress(OSError):
                publisher.trim_output()
            if code is not None:
                return code
            if self._lease.overtaken or publication.overtaken:
                raise Overtaken
            if (stop_reason := self._stop_reason()) is not None:
                self._stopping.request(child, stop_reason, publisher.longest_seconds)
            self._reporter.advise(publisher)
            if (violation := self._violation(observer) or self._disk(publisher)) is not None:
                self._stopping.request(child, violation, publisher.longest_seconds)
            self._stopping.kill_when_due(child)
            shutdown_state.wake.wait(TICK_SECONDS)
            shutdown_state.wake.clear()

    def _violation(self, observer: Observer) -> StopReason | None:
        """The limit that the attempt violates."""
        found = observer.violation(self._lease.limits, self._reporter.run_seconds)
        # A program that saves because it was asked to stop makes no step: that is not a stall.
        return None if found is StopReason.STALL and self._stopping.reason is not None else found

    def _disk(self, publisher: Publisher) -> StopReason | None:
        limit = self._lease.limits.disk_bytes
        return StopReason.DISK if limit is not None and publisher.bytes_here > limit else None

    def _stop_reason(self) -> StopReason | None:
        """Why this attempt must stop: a request for the job, else a shutdown of this worker."""
        leaving = self._context.shutdown_state.stop_since is not None
        request = self._lease.request  # read once: it may be withdrawn
        shutdown = StopReason.SHUTDOWN if leaving else None
        return STOP_REASONS[request] if request is not None else shutdown

    def _is_wanted(self) -> bool:
        """Whether neither this attempt nor this worker has been asked to stop."""
        return self._stop_reason() is None

    def _with_notice(self, ended: Outcome, stop_reason: StopReason | None) -> Outcome:
        """The outcome, with the cloud's spot notice as its message if that was the reason."""
        notice = self._context.shutdown_state.notice
        preempted = stop_reason is StopReason.SHUTDOWN and ended.reason is Reason.PREEMPTED
        return replace(ended, message=notice) if preempted and notice else ended
