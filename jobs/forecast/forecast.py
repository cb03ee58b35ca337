"""Says why a job waits and for how long, from pictures of the pools that are a moment old."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from jobs.forecast.picture import Picture, take_picture
from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import State
from jobs.reaper.evictor import Evictor
from jobs.store.jobs import JobStore
from jobs.store.queues import Place
from jobs.store.registry import WorkerRegistry

# A picture is good for so long. Who asks while another one takes the next gets the last.
_GOOD_SECONDS = 3.0
_MOST_PICTURES = 256


@dataclass(frozen=True)
class Waiting:
    """Why a job waits, as a sentence, and the seconds until it starts, if they can be known."""

    reason: str
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What would become of a job that was submitted now.

    `position` is the number of jobs ahead of it, `evicts` the ids of those that would have to make
    room for it, `workers` the number of workers of its pool.
    """

    position: int
    waiting: Waiting
    evicts: list[str]
    workers: int


class Forecast:
    """The forecast of one service; all methods may raise one of `jobs.errors.STORE_AWAY`."""

    def __init__(
        self, store: JobStore, registry: WorkerRegistry, eviction_min_seconds: float
    ) -> None:
        self._store = store
        self._registry = registry
        self._evictor = Evictor(store, eviction_min_seconds)
        self._pictures: dict[str, Picture] = {}
        self._locks: dict[str, threading.Lock] = {}

    def waiting(self, job: Job, place: Place | None) -> Waiting | None:
        """Why a queued job waits; None for one that is not queued.

        `place` is the one that it has in its pool, None in its backoff.
        """
        if job.state is not State.QUEUED:
            return None
        pool = job.spec.resources.pool
        picture = self._picture(pool)
        if place is None:
            left = max(0.0, job.not_before - self._store.now())
            line = picture.seconds(picture.new_ahead)
            seconds = None if line is None else max(left, line)
            return Waiting("it failed, and waits for its backoff to end", seconds)
        return self._in_line(picture, job.spec, place, job.id)

    def pool_seconds(self, pool: str) -> float | None:
        """Seconds until a job starts that is submitted now; None if that cannot be known."""
        picture = self._picture(pool)
        return picture.seconds(picture.new_ahead)

    def plan(self, spec: JobSpec, owner: str | None = None) -> Plan:
        """What would become of a job that `owner` submitted now."""
        pool = spec.resources.pool
        with self._lock(pool):
            picture = self._take(pool)
        place = self._store.queues.place_of_new(pool, spec.priority, owner)
        evicts = []
        if not place.held:
            evicts = self._evictor.would_evict(spec, place.ahead, self._store.now())
        waiting = self._in_line(picture, spec, place, None)
        if evicts:
            waiting = Waiting(f"job {evicts[0]} has a lower priority, and would make room", 0.0)
        return Plan(place.ahead, waiting, evicts, len(picture.workers))

    def _in_line(
        self, picture: Picture, spec: JobSpec, place: Place, job_id: str | None
    ) -> Waiting:
        if reason := place.held or _blocked(picture, spec):
            return Waiting(reason, None)
        seconds = picture.seconds(place.ahead, job_id)
        if place.ahead:
            jobs = "1 job is" if place.ahead == 1 else f"{place.ahead:,} jobs are"
            return Waiting(f"{jobs} ahead of it", seconds)
        if picture.has_idle:
            return Waiting("it is next, and a worker is free", seconds)
        count = len(picture.taking)
        busy = "the worker is busy" if count == 1 else f"all {count} workers are busy"
        return Waiting(f"it is next, and {busy} in pool {spec.resources.pool!r}", seconds)

    # -- pictures -------------------------------------------------------------------------------

    def _picture(self, pool: str) -> Picture:
        """A picture of the pool that is at most a moment old."""
        known, lock = self._pictures.get(pool), self._lock(pool)
        if known is not None and (_is_good(known) or not lock.acquire(blocking=False)):
            return known
        if known is None:
            lock.acquire()
        try:
            known = self._pictures.get(pool)
            return known if known is not None and _is_good(known) else self._take(pool)
        finally:
            lock.release()

    def _take(self, pool: str) -> Picture:
        picture = take_picture(self._store, pool, self._registry.workers())
        if len(self._pictures) >= _MOST_PICTURES:  # anybody may ask for pools of any name
            self._pictures, self._locks = {}, {}
        self._pictures[pool] = picture
        return picture

    def _lock(self, pool: str) -> threading.Lock:
        return self._locks.setdefault(pool, threading.Lock())


def _blocked(picture: Picture, spec: JobSpec) -> str:
    """Why no worker of the pool can take the job, as a sentence; '' if one can."""
    pool, gpus = spec.resources.pool, spec.resources.gpus
    if not picture.workers:
        return f"pool {pool!r} has no worker"
    if not picture.taking:
        states = sorted({str(worker.state) for worker in picture.workers})
        return f"no worker of pool {pool!r} takes jobs: {' or '.join(states)}"
    if gpus > picture.most_gpus:
        largest = picture.most_gpus
        needed = "1 GPU" if gpus == 1 else f"{gpus} GPUs"
        return f"it needs {needed}, and the largest worker of pool {pool!r} has {largest}"
    return ""


def _is_good(picture: Picture) -> bool:
    return time.monotonic() - picture.at < _GOOD_SECONDS
