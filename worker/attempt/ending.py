"""Ends an attempt: publishes the last files and the receipt, then writes the end to the record."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from redis.exceptions import RedisError

from jobs.model.record import Attempt, Job
from jobs.model.states import Reason, Request
from jobs.store.registry import WorkerRegistry
from worker.attempt.context import WorkerContext
from worker.attempt.lease import Lease
from worker.attempt.outcome import Outcome
from worker.attempt.receipts import Receipts
from worker.attempt.reporting import Reporter
from worker.attempt.retry import RETRY_SECONDS, StorageRetry, storage_calls
from worker.attempt.stopping import Stopping
from worker.failures.going_back import has_saved
from worker.failures.repeats import will_repeat
from worker.files.publish import Publisher

log = logging.getLogger(__name__)

# How often files that storage refused are offered again at the end.
_REFUSED_TRIES = 3


class Ending:
    """The last acts of one attempt; its methods raise what the calls that they make raise."""

    def __init__(
        self,
        context: WorkerContext,
        job: Job,
        *,
        lease: Lease,
        stopping: Stopping,
        receipts: Receipts,
        reporter: Reporter,
        retry: StorageRetry,
    ) -> None:
        self._context = context
        self._job = job
        self._lease = lease
        self._stopping = stopping
        self._receipts = receipts
        self._reporter = reporter
        self._retry = retry
        self._has_saved = False

    def publish(self, publisher: Publisher, ended: Outcome, *, orderly: bool) -> Outcome:
        """Publishes the last files and the receipt; the outcome, which storage may change.

        `orderly`: the program ended by itself, so that it was not in the middle of a write.
        """
        ended = self._publish_files(publisher, ended, orderly)
        self._has_saved = has_saved(self._receipt(ended), publisher.moments)
        self._publish_receipt(publisher, ended)
        return ended

    def _publish_files(self, publisher: Publisher, ended: Outcome, orderly: bool) -> Outcome:
        why = f" ({ended.message})" if ended.message else ""
        publisher.close(
            f"{log_time()} attempt {self._job.attempt} ended: {ended.reason}{why}",
            orderly=orderly,
            completed=ended.reason is Reason.COMPLETED,
        )
        give_up_at = time.monotonic() + self._stopping.grace_seconds

        def worthwhile() -> bool:
            return self._lease.request is not Request.CANCEL or time.monotonic() < give_up_at

        if not self._retry(publisher.publish, worthwhile=worthwhile):
            message = "the last results could not be saved: storage was unavailable"
            return Outcome(Reason.STORAGE, message, ended.exit_code)
        self._reporter.update(publisher)
        self._reporter.refuse(publisher)
        if self._reporter.advise(publisher):
            self._retry(publisher.publish)
        for _ in range(_REFUSED_TRIES):
            if publisher.refused.keys() <= publisher.unstorable.keys():
                break
            time.sleep(RETRY_SECONDS)
            self._retry(publisher.publish)
        for line in (not_kept := publisher.not_kept()):
            publisher.add_line(f"not saved: {line}")
        if not_kept:
            self._retry(publisher.publish)
        return ended

    def _publish_receipt(self, publisher: Publisher, ended: Outcome) -> None:
        """Publishes the receipt if storage is available; the record will have it in any case."""
        self._reporter.update(publisher)
        self._receipts.write(self._receipt(ended))
        storage_calls(self._context, publisher.publish).call()

    def finish(self, ended: Outcome) -> None:
        """Writes the end to the record, through any outage of Redis, and wakes an idle worker.

        A worker that is shutting down gives up at the end of its grace period: the reaper then
        finds the attempt lost.
        """
        store, warned = self._context.store, False
        while True:
            try:
                self._lease.record_advice()
                receipt = self._receipt(ended)
                job = store.finish(
                    self._job.id,
                    receipt,
                    retryable=ended.retryable and not self._will_repeat(receipt, ended.words),
                    progress=self._lease.progress,
                )
            except RedisError as error:  # unavailable, or out of memory or disk
                if not warned:
                    log.warning("job %s: cannot write its end, trying again: %s",
                                self._job.id, error)  # fmt: skip
                warned = True
                if time.monotonic() > self._stopping.worker_leaves_at:
                    log.error("job %s: its end was not written: %s", self._job.id, error)
                    return
                time.sleep(RETRY_SECONDS)
            else:
                break
        state = job.state if job else "unknown"
        log.info("job %s: attempt %d ended (%s), the job is %s",
                 self._job.id, receipt.number, receipt.reason, state)  # fmt: skip
        try:
            self._context.messenger.flush(store.now())
        except Exception as error:  # it stays in the outbox, and the reaper sends it
            log.warning("job %s: its message is still to be sent: %s", self._job.id, error)

    def _will_repeat(self, receipt: Attempt, words: str) -> bool:
        """Whether the attempt failed, and another one would fail like it."""
        if not words:
            return False
        store, resources = self._context.store, self._job.spec.resources
        registry = WorkerRegistry(
            store.redis, prefix=store.prefix, lease_seconds=store.lease_seconds
        )
        machines = {
            worker.host
            for worker in registry.workers()
            if worker.pool == resources.pool
            and worker.state.takes_jobs
            and len(worker.gpus) >= resources.gpus
        }
        return will_repeat(self._job, receipt, words, machines, saved=self._has_saved)

    def _receipt(self, ended: Outcome) -> Attempt:
        return self._receipts.of(ended, self._lease.progress)


def log_time() -> str:
    """The time as the lines of the supervisor in a run's output log show it."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
