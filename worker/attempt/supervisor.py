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
from functools import partial
from pathlib import Path

from redis.exceptions import RedisError

from jobs.errors import JobNotFoundError, StaleAttemptError
from jobs.model.record import Job
from jobs.model.states import Reason, State
from monitoring.storage.base import Fence, OvertakenError
from monitoring.storage.moments import Moments
from worker.attempt.background import Background
from worker.attempt.context import WorkerContext
from worker.attempt.ending import Ending, log_time
from worker.attempt.lease import MAX_PAUSE, Lease
from worker.attempt.observe import Observer, restarted
from worker.attempt.outcome import (
    INVALIDATING,
    Outcome,
    StopReason,
    outcome,
    stopped_before_start,
)
from worker.attempt.preparation.code import AttemptCode
from worker.attempt.preparation.found import Found
from worker.attempt.preparation.place import place_of
from worker.attempt.preparation.preparation import Preparation
from worker.attempt.receipts import Receipts
from worker.attempt.reporting import Reporter
from worker.attempt.retry import TICK_SECONDS, Overtaken, StorageRetry, storage_calls
from worker.attempt.stopping import Stopping
from worker.attempt.watch import Watch
from worker.failures.going_back import moment_to_avoid
from worker.files.logs.output import last_lines, written
from worker.files.own_files import OwnFiles
from worker.files.publish import Publisher
from worker.files.restore import restore, rewind
from worker.files.resuming import has_something_to_resume
from worker.files.scratch import Restored, Scratch
from worker.launch.command import Launch
from worker.launch.group import Group, group_of_attempt
from worker.losses.note import Note, NoteFile, noted
from worker.progress.reader import ProgressReader
from worker.usage.sampler import SystemSampler

log = logging.getLogger(__name__)

_REMOVED = "the run's directory in storage was removed, or another service has written to it"
# During the training; the last publication runs at normal priority.
PUBLICATION_NICE = 10


def supervise(context: WorkerContext, job: Job) -> None:
    """Runs the job's current attempt to its end."""
    log.info("job %s: attempt %d starts", job.id, job.attempt)
    lease = Lease(context, job)
    lease.start()
    attempt: _Attempt | None = None
    try:
        scratch = place_of(context.settings.scratch_dir, job, context.rights.uid)
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
        if attempt is None or not _end_if_ours(context, job, attempt):
            log.warning("job %s: attempt %d was overtaken by a newer one", job.id, job.attempt)
    finally:
        lease.stop()


def _end_if_ours(context: WorkerContext, job: Job, attempt: _Attempt) -> bool:
    """Ends an attempt that storage refuses, but which is the job's newest; whether it is that.

    Without an end, the worker would begin the same attempt again, and again.
    """
    try:
        now = context.store.get(job.id)
        if (now.state, now.attempt, now.worker) != (State.RUNNING, job.attempt, job.worker):
            return False
        attempt.ending.finish(Outcome(Reason.STORAGE, _REMOVED))
    except (RedisError, JobNotFoundError, StaleAttemptError):
        return False
    return True


class _Attempt:
    """One attempt; it ends without a trace once `Overtaken` or the like is raised."""

    def __init__(self, context: WorkerContext, job: Job, scratch: Scratch, lease: Lease) -> None:
        self._context = context
        self._job = job
        self._scratch = scratch
        self.note: NoteFile | None = None
        self._avoided: str | None = None
        self._lease = lease
        self._stopping = Stopping(context, lease, job.id)
        self._code = AttemptCode(context, job, self._stopping.is_wanted)
        self._own = OwnFiles(context.storage, Fence(job.id, job.attempt))
        self._receipts = Receipts(job, self._own)
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
        fetched = self._retry(self._code.fetch, worthwhile=self._stopping.is_wanted)
        try:
            return self._without_code(fetched=fetched) or self._restore_and_run()
        finally:
            self._code.close()

    def _without_code(self, *, fetched: bool) -> Outcome | None:
        """The outcome of an attempt whose code could not be fetched; None if it is there."""
        if self._code.is_there:
            return None
        if (stopped := self._stopping.before_start()) is not None:
            return stopped
        why = "storage was unavailable" if not fetched else "it was interrupted"
        return self._code.failure or Outcome(
            Reason.STORAGE, f"the code could not be fetched: {why}"
        )

    def _restore_and_run(self) -> Outcome:
        restored: list[Restored | None] = []
        succeeded = self._retry(
            lambda: restored.append(self._restore()), worthwhile=self._stopping.is_wanted
        )
        if (stopped := self._stopping.before_start()) is not None:
            return stopped
        if not succeeded or restored[0] is None:
            return Outcome(Reason.STORAGE, "the run could not be restored: storage was unavailable")
        copied = self._code.seconds
        self._reporter.note(
            {"workspace_seconds": copied, "restore_seconds": self._reporter.seconds - (copied or 0)}
        )
        most = self._context.settings.job_processes
        with group_of_attempt(f"{self._job.id}.{self._job.attempt}", most) as group:
            return self._run(restored[0], group)

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
            wanted=self._stopping.is_wanted,
            place=partial(self._code.place, run.root),
            may_link=self._scratch.owner is None,
        )
        if restored is None:
            return None
        self._receipts.moment = restored.moment.name if restored.moment else None
        self._reporter.note(Found.of(restored).measures())
        if self._job.spec.restart == "from_checkpoint":
            rewind(run, restored, self._job.attempt)
        accepted = {"id", "spec", "submitted_at", "forked_from", "owner"}
        text = self._job.model_dump_json(include=accepted, indent=2)
        run.job.write_text(text)
        for path in filter(Path.is_file, (run.job, run.git, run.git_patch)):
            self._own.add(path.name, path.read_bytes())
        self._receipts.write_missing()
        self._scratch.hand_over()
        return restored

    def _run(self, restored: Restored, group: Group) -> Outcome:
        """Prepares the attempt, runs its program, and publishes what both leave."""
        guarded = self._job.spec.restart == "from_checkpoint"
        publisher = Publisher(
            self._context.storage, self._scratch, Fence(self._job.id, self._job.attempt), restored,
            max_pause=self._context.settings.lease_seconds * MAX_PAUSE, confirm=self._lease.confirm,
            invalid=lambda: guarded and restarted(self._scratch, restored, undecided=True),
            exclude=self._job.spec.keep.exclude, own=self._own,
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
        watch = Watch(
            self._context, self._scratch, lease=self._lease, stopping=self._stopping,
            reporter=self._reporter, note=self.note, publisher=publisher, publication=publication,
            observer=observer, group=group,
        )  # fmt: skip
        sampling = self._sampling(publisher, watch, restored)
        preparation = Preparation(
            self._context, self._job, self._scratch, code=self._code.files,
            reporter=self._reporter, wanted=watch.is_wanted,
        )  # fmt: skip
        if self._job.spec.setup:
            publisher.hold_back()
        with contextlib.ExitStack() as running:
            running.callback(preparation.close)
            publication.start()
            running.callback(publication.stop)
            sampling.start()
            running.callback(sampling.stop)
            launch = preparation.run(watch, resumed=self._is_resumed(restored))
            self._code.close()
            if isinstance(launch, Launch):
                publisher.begin()
                reader.skip_output()
                reading.start()
                running.callback(reading.stop)
                printed = written(self._scratch.output)
                child = watch.child(launch)
                running.callback(child.end)
                exit_code = watch.until_ended(child)
        if not isinstance(launch, Launch):
            stopped = self._stopping.before_start() or stopped_before_start(StopReason.SHUTDOWN)
            return self.ending.publish(publisher, launch or stopped, orderly=True)
        self._reading(lambda: reader.finish(publisher.look)).call()
        self._reporter.report(observer, publisher)
        if (fault := watch.violation()) in INVALIDATING:
            self._stopping.note(fault)
        if not publisher.is_in_place:  # a newer attempt has moved it aside, or the program has
            self._lease.confirm(time.monotonic())
        ended = outcome(
            exit_code,
            self._stopping.reason,
            last_lines(self._scratch.output, printed),
            zero_means_done=self._job.spec.train is not None,
            out_of_memory=group.out_of_memory(),
            full_disk=self._scratch.full_disk(),
        )
        ended = self._stopping.with_notice(ended)
        return self.ending.publish(publisher, ended, orderly=child.is_orderly)

    def _sampling(self, publisher: Publisher, watch: Watch, restored: Restored) -> Background:
        """Samples of what the attempt uses of its machine."""
        start = restored.checkpoint
        sampler = SystemSampler(
            publisher.system, self._scratch.root, guard=watch.guard,
            step=lambda: self._lease.progress.step, gpus=self._context.gpus,
            disk_bytes=lambda: publisher.bytes_here, first_step=start.step if start else 0,
        )  # fmt: skip
        return Background(
            "the sampling of the machine", sampler.sample, seconds=TICK_SECONDS,
            on_overtaken=self._context.shutdown_state.wake, nice=PUBLICATION_NICE,
        )  # fmt: skip

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
