"""Carries out evictions: checks each pool and requests jobs to make room."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from jobs.errors import JobNotFoundError
from jobs.model.eviction import Running, Slot, Waiting, evictions, loss_seconds
from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.workers import Worker
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry

log = logging.getLogger(__name__)

_NEW = ""  # the id of a job that is not submitted yet


class Evictor:
    """Evicts running jobs that have run for at least `min_seconds`."""

    def __init__(self, store: JobStore, min_seconds: float) -> None:
        self._store = store
        self._queues = store.queues
        self._registry = WorkerRegistry(
            store.redis, prefix=store.prefix, lease_seconds=store.lease_seconds
        )
        self._min_seconds = min_seconds

    def run_once(self, now: float) -> list[str]:
        """One pass; returns the ids of the jobs that were requested to make room."""
        evicted: list[str] = []
        workers = self._registry.workers()
        taking = [worker for worker in workers if worker.state.takes_jobs]
        for pool in self._registry.pools(workers):
            if pool.queued and pool.running:
                evicted += self._evict(pool.name, [w for w in taking if w.pool == pool.name], now)
        return evicted

    def would_evict(self, spec: JobSpec, position: int, now: float) -> list[str]:
        """The ids of the jobs that would have to make room for a new one.

        `position` is the number of jobs that would be ahead of it, `now` in seconds since the
        epoch.
        """
        pool = spec.resources.pool
        workers = [
            worker
            for worker in self._registry.workers()
            if worker.pool == pool and worker.state.takes_jobs
        ]
        if not workers or not self._queues.lower_runs(pool, spec.priority):
            return []
        waiting = self._waiting(pool, len(workers))
        waiting.insert(position, Waiting(_NEW, spec.priority, spec.resources.gpus))
        due = evictions(waiting, self._slots(workers, now), self._min_seconds)
        return [eviction.job_id for eviction in due if eviction.for_job == _NEW]

    def _evict(self, pool: str, workers: list[Worker], now: float) -> list[str]:
        if not workers:
            return []
        # A cheap check first: reading the records of all running jobs would cost too much per pass.
        first = [self._job(job_id) for job_id in self._queues.some_waiting(pool, 1)]
        if not first or first[0] is None or not self._queues.lower_runs(pool, first[0].priority):
            return []
        waiting, slots = self._waiting(pool, len(workers)), self._slots(workers, now)
        evicted = []
        for eviction in evictions(waiting, slots, self._min_seconds):
            if self._store.evict(eviction.job_id, eviction.attempt, eviction.for_job):
                log.info("job %s makes room for job %s", eviction.job_id, eviction.for_job)
                evicted.append(eviction.job_id)
        return evicted

    def _waiting(self, pool: str, most: int) -> list[Waiting]:
        """The jobs that could get one of `most` slots, in the order of the queue."""
        ids = self._queues.next_in_turn(pool, most)
        ids += [i for i in self._queues.some_waiting(pool, most) if i not in ids]
        return [
            Waiting(job.id, job.priority, job.spec.resources.gpus)
            for job in map(self._job, ids)
            if job is not None
        ]

    def _slots(self, workers: list[Worker], now: float) -> list[Slot]:
        return [slot for worker in workers if (slot := self._slot(worker, now)) is not None]

    def _slot(self, worker: Worker, now: float) -> Slot | None:
        """The slot of a worker; None if its job is ending or its record is unreadable."""
        gpus = len(worker.gpus)
        if worker.job is None:
            return Slot(worker.name, gpus, reserved_for=self._queues.reserved_for(worker.name))
        job = self._job(worker.job)
        if job is None or job.current is None or job.worker != worker.name:
            return None
        running = Running(
            id=job.id,
            attempt=job.attempt,
            priority=self._queues.counted(job),
            preemptible=job.spec.preemptible,
            run_seconds=now - job.current.started_at,
            loss_seconds=loss_seconds(job, now),
            request=job.request,
            evicted_for=self._queues.evicted_for(job.id),
        )
        return Slot(worker.name, gpus, running)

    def _job(self, job_id: str) -> Job | None:
        try:
            return self._store.get(job_id)
        except (JobNotFoundError, ValidationError):
            return None
