"""Runs one attempt of a job: starts the child, keeps the lease, publishes, and ends it.

The child trains and writes to its scratch directory, whatever happens here. When Redis or
storage cannot be reached the supervisor goes on looking after the child and publishes later;
when a newer attempt exists it kills the child and leaves no trace.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from redis.exceptions import RedisError

from jobs.errors import JobNotFoundError, StaleAttemptError
from jobs.model.record import Attempt, Job, Progress
from jobs.model.states import Reason, Request
from monitoring.files import write_atomically
from monitoring.storage.base import Fence, OvertakenError
from worker.attempt.advice import advise
from worker.attempt.background import Background
from worker.attempt.context import WorkerContext
from worker.attempt.lease import MAX_PAUSE, Lease
from worker.attempt.memory import oom_kills
from worker.attempt.observe import Observer, restarted
from worker.attempt.outcome import (
    INVALIDATING,
    STOP_REASONS,
    Outcome,
    StopReason,
    outcome,
    stopped_before_start,
)
from worker.attempt.receipts import Receipts
from worker.attempt.stopping import Stopping
from worker.files.output import last_lines
from worker.files.publish import Publisher
from worker.files.restore import restore, rewind
from worker.files.scratch import Restored, Scratch
from worker.launch.child import Child
from worker.launch.command import Launch
from worker.launch.prepare import CannotLaunchError, prepare

log = logging.getLogger(__name__)

# Beside the training; what is left in the end is published as fast as it can be.
PUBLICATION_NICE = 10
_TICK_SECONDS = 1.0
_RETRY_SECONDS = 0.5
# A store that is away for so long at the end of an attempt fails it.
_STORAGE_PATIENCE_SECONDS = 900.0
# How often the last files are offered to a store that takes others.
_OFFERS = 3


class Overtaken(Exception):  # noqa: N818 - nothing went wrong with this attempt
    """Another attempt has the job: stop without a word."""


def supervise(context: WorkerContext, job: Job) -> None:
    """Runs the job's current attempt to its end."""
    log.info("job %s: attempt %d starts", job.id, job.attempt)
    scratch = Scratch(context.settings.scratch_dir, job.id, job.attempt)
    attempt = _Attempt(context, job, scratch)
    try:
        try:
            with scratch.held():
                attempt.run()
        except OSError as error:
            attempt.finish(Outcome(Reason.STORAGE, f"no scratch disk on this worker: {error}"))
    except JobNotFoundError:
        log.warning(
            "job %s: there is no record in which attempt %d could end; if Redis has lost its "
            "memory, `spectrain reindex` makes one of what storage has",
            job.id, job.attempt,
        )  # fmt: skip
    except (Overtaken, OvertakenError, StaleAttemptError):
        log.warning("job %s: attempt %d was overtaken", job.id, job.attempt)


class _Attempt:
    """One attempt; whatever raises `Overtaken` or the like is final."""

    def __init__(self, context: WorkerContext, job: Job, scratch: Scratch) -> None:
        self._context = context
        self._job = job
        self._scratch = scratch
        self._stopping = Stopping(context, job.id)
        self._puzzled = False
        self._begun = time.monotonic()
        self._restore_seconds: float | None = None
        self._lease = Lease(context, job)
        self._receipts = Receipts(job, scratch.run)

    def run(self) -> None:
        """Prepares, attends and ends the attempt, its lease kept all the while."""
        self._lease.start()
        try:
            self.finish(self._outcome())
        finally:
            self._lease.stop()

    def _outcome(self) -> Outcome:
        try:
            return self._run_child()
        except (Overtaken, OvertakenError, StaleAttemptError, JobNotFoundError):
            raise
        except Exception as error:  # ours, not the job's: it runs again and says so
            log.exception(
                "job %s: attempt %d could not be supervised", self._job.id, self._job.attempt
            )
            return Outcome(Reason.ERROR, f"the supervisor failed: {error!r}")

    def _run_child(self) -> Outcome:
        restored: list[Restored | None] = []
        came = self._patiently(lambda: restored.append(self._restore()), as_long_as=self._is_wanted)
        if (asked := self._asked()) is not None:
            return self._with_notice(stopped_before_start(asked), asked)
        if not came or restored[0] is None:
            return Outcome(Reason.STORAGE, "the run could not be restored: storage was away")
        self._restore_seconds = time.monotonic() - self._begun
        try:
            launch = prepare(self._job, self._scratch, self._context.slot, self._context.settings)
        except CannotLaunchError as error:
            return Outcome(Reason.ERROR, str(error), retryable=False)
        return self._attend_child(launch, restored[0])

    def _attend_child(self, launch: Launch, restored: Restored) -> Outcome:
        guarded = self._job.spec.restart == "from_checkpoint"
        publisher = Publisher(
            self._context.storage, self._scratch, Fence(self._job.id, self._job.attempt), restored,
            absence=self._context.settings.lease_seconds * MAX_PAUSE, confirm=self._lease.confirm,
            spoiled=lambda: guarded and restarted(self._scratch, restored, undecided=True),
        )  # fmt: skip
        publisher.say(f"{_now()} attempt {self._job.attempt} starts {_start(restored)}")
        publication = self._background("storage", publisher.publish, nice=PUBLICATION_NICE)
        kills = oom_kills()
        child = Child(
            launch.command,
            env=launch.env,
            cwd=launch.cwd,
            output=self._scratch.output,
            on_exit=self._context.shutdown_state.wake.set,
            start=self._context.start,
        )
        try:
            publication.start()
            exit_code = self._attend(child, publisher, publication, restored)
        finally:
            child.end()
            publication.stop()
        lines = last_lines(self._scratch.output)
        zero_means_done = self._job.spec.train is not None
        ended = outcome(
            exit_code,
            self._stopping.reason,
            lines,
            zero_means_done=zero_means_done,
            oom_killed=oom_kills() != kills,
        )
        ended = self._publish_last(publisher, self._with_notice(ended, self._stopping.reason))
        self._publish_receipt(publisher, ended)
        return ended

    def _with_notice(self, ended: Outcome, stop_reason: StopReason | None) -> Outcome:
        """The outcome, with what the cloud said where that was the reason."""
        notice = self._context.shutdown_state.notice
        told = stop_reason is StopReason.SHUTDOWN and ended.reason is Reason.PREEMPTED and notice
        return replace(ended, message=notice) if told else ended

    # -- before -----------------------------------------------------------------------------

    def _restore(self) -> Restored | None:
        storage, run = self._context.storage, self._scratch.run
        storage.seize(Fence(self._job.id, self._job.attempt))
        self._scratch.empty()
        restored = restore(
            storage,
            self._job.id,
            run,
            keeps_records=self._job.spec.train is not None,
            wanted=self._is_wanted,
        )
        if restored is None:
            return None
        if self._job.spec.restart == "from_checkpoint":
            rewind(run, restored, self._job.attempt)
        if not run.job.exists():
            text = self._job.model_dump_json(include={"id", "spec", "submitted_at"}, indent=2)
            write_atomically(run.job, text.encode())
        self._receipts.write_missing(storage)
        return restored

    # -- during -----------------------------------------------------------------------------

    def _attend(
        self, child: Child, publisher: Publisher, publication: Background, restored: Restored
    ) -> int:
        """The child's exit code, after looking after it once a second or when woken."""
        shutdown_state = self._context.shutdown_state
        observer = Observer(self._job.spec, self._scratch, restored, self._begun)
        while True:
            code = child.exit_code
            self._look(observer, publisher)
            if code is not None:
                if (found := self._violation(observer)) in INVALIDATING:
                    self._stopping.note(found)
                return code
            if self._lease.overtaken or publication.overtaken:
                raise Overtaken
            if (asked := self._asked()) is not None:
                self._stopping.request(child, asked, publisher.longest_seconds)
            self._advise(publisher)
            if (violation := self._violation(observer)) is not None:
                self._stopping.request(child, violation, publisher.longest_seconds)
            self._stopping.kill_when_due(child)
            shutdown_state.wake.wait(_TICK_SECONDS)
            shutdown_state.wake.clear()

    def _violation(self, observer: Observer) -> StopReason | None:
        """What the attempt must be stopped for."""
        found = observer.violation(self._lease.limits, self._run_seconds)
        # A program that saves because it was asked to leave makes no step: that is no failure.
        return None if found is StopReason.STALL and self._stopping.reason is not None else found

    def _is_wanted(self) -> bool:
        """Whether nobody has asked this attempt or this worker to stop."""
        return self._asked() is None

    def _asked(self) -> StopReason | None:
        """What this worker or this attempt was asked for; the weightier of both."""
        shutdown = (
            StopReason.SHUTDOWN if self._context.shutdown_state.stop_since is not None else None
        )
        request = self._lease.request  # once: it may be taken back
        return STOP_REASONS[request] if request is not None else shutdown

    def _look(self, observer: Observer, publisher: Publisher) -> None:
        """Notes the progress; whatever the job has written there must not end it."""
        try:
            seen = observer.progress()
        except Exception as error:  # strange rows, directories in the place of files, …
            seen = self._lease.progress
            if not self._puzzled:
                log.warning("job %s: cannot tell its progress: %r", self._job.id, error)
            self._puzzled = True
        self._lease.report(self._published(seen, publisher))

    def _published(self, seen: Progress, publisher: Publisher) -> Progress:
        """What was seen, and what storage has of it."""
        return seen.model_copy(
            update={
                "checkpoint_step": publisher.checkpoint.step if publisher.checkpoint else None,
                "uploaded_bytes": publisher.uploaded_bytes,
                "restore_seconds": self._restore_seconds,
            }
        )

    @property
    def _run_seconds(self) -> float:
        """Run time of the job's attempts so far."""
        return self._job.run_seconds + time.monotonic() - self._begun

    def _advise(self, publisher: Publisher) -> bool:
        """Says once when a save and its upload do not fit into the grace; whether it did now."""
        saved = publisher.checkpoint
        if self._lease.advice is not None or saved is None or saved.attempt != self._job.attempt:
            return False
        self._lease.advice = advise(
            self._job,
            self._lease.progress,
            save_seconds=saved.seconds,
            upload_seconds=publisher.longest_seconds,
            grace_seconds=self._context.settings.grace_seconds,
            run_seconds=self._run_seconds,
        )
        if self._lease.advice is not None:
            publisher.say(str(self._lease.advice))
        return self._lease.advice is not None

    def _background(self, name: str, action: Callable[[], None], *, nice: int = 0) -> Background:
        seconds = min(_TICK_SECONDS, self._context.settings.lease_seconds / 5)
        wake = self._context.shutdown_state.wake
        return Background(name, action, seconds=seconds, on_overtaken=wake, nice=nice)

    # -- after ------------------------------------------------------------------------------

    def _publish_last(self, publisher: Publisher, ended: Outcome) -> Outcome:
        """Publishes what is left and how it ended, waiting for a store that is away."""
        why = f" ({ended.message})" if ended.message else ""
        publisher.close(f"{_now()} attempt {self._job.attempt} ended: {ended.reason}{why}")
        give_up = time.monotonic() + self._stopping.grace_seconds

        def worth_it() -> bool:
            return self._lease.request is not Request.CANCEL or time.monotonic() < give_up

        if not self._patiently(publisher.publish, as_long_as=worth_it):
            message = "the last results could not be saved: storage was away"
            return Outcome(Reason.STORAGE, message, ended.exit_code)
        self._lease.progress = self._published(self._lease.progress, publisher)
        if self._advise(publisher):
            self._patiently(publisher.publish)
        for _ in range(_OFFERS):
            if not publisher.refused:
                break
            time.sleep(_RETRY_SECONDS)
            self._patiently(publisher.publish)
        for path, error in publisher.refused.items():
            publisher.say(f"not kept: {path}: {error}")
        if publisher.refused:
            self._patiently(publisher.publish)
        return ended

    def _publish_receipt(self, publisher: Publisher, ended: Outcome) -> None:
        """Publishes what the record will say of this attempt, where storage is there."""
        self._lease.progress = self._published(self._lease.progress, publisher)
        with contextlib.suppress(OSError):  # the record has it too
            self._receipts.write(self._receipt(ended))
        self._background("storage", publisher.publish).call()

    def _patiently(
        self, action: Callable[[], None], *, as_long_as: Callable[[], bool] = lambda: True
    ) -> bool:
        """Calls `action` until it comes through; False when a store was away for too long.

        `as_long_as` says whether it is worth the waiting.
        """
        call = self._background("storage", action)
        deadline = time.monotonic() + _STORAGE_PATIENCE_SECONDS
        while not call.call():
            if self._lease.overtaken or call.overtaken:
                raise Overtaken
            if (
                time.monotonic() > min(deadline, self._stopping.worker_leaves_at)
                or not as_long_as()
            ):
                return False
            time.sleep(_RETRY_SECONDS)
        return True

    def finish(self, ended: Outcome) -> None:
        """Writes the end, however long Redis is away, and wakes a worker for what is queued.

        A worker that was told to stop gives up with its grace: the reaper finds the attempt lost.
        """
        store, told = self._context.store, False
        while True:
            try:
                self._lease.record_advice()
                receipt = self._receipt(ended)
                job = store.finish(
                    self._job.id, receipt, retryable=ended.retryable, progress=self._lease.progress
                )
            except RedisError as error:  # away, or out of memory or disk
                if not told:
                    log.warning("job %s: cannot write its end yet: %s", self._job.id, error)
                told = True
                if time.monotonic() > self._stopping.worker_leaves_at:
                    log.error("job %s: its end was not written: %s", self._job.id, error)
                    return
                time.sleep(_RETRY_SECONDS)
            else:
                break
        state = job.state if job else "unknown"
        log.info("job %s: attempt %d %s, the job is %s",
                 self._job.id, receipt.number, receipt.reason, state)  # fmt: skip
        try:
            self._context.messenger.flush(store.now())
        except Exception as error:  # the outbox has it: the reaper sends it
            log.warning("job %s: nobody was woken for it yet: %s", self._job.id, error)

    def _receipt(self, ended: Outcome) -> Attempt:
        return self._receipts.of(ended, self._lease.progress)


def _start(restored: Restored) -> str:
    if restored.checkpoint is None:
        return "from the beginning"
    return f"from the checkpoint of step {restored.checkpoint.step}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
