"""What a pool looks like at one moment: its slots, its line, and how long its jobs take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jobs.forecast.facts import Experience, Facts
from jobs.forecast.line import seconds_until_start
from jobs.model.spec import JobSpec
from jobs.model.states import State
from jobs.model.workers import Worker, WorkerState
from jobs.store.jobs import JobStore

# A longer line is judged by its beginning; similar jobs are looked for among the newest ends.
_LINE = 200
_ENDED = 100
_NAMES = ("spec", "progress", "run_seconds", "pool")


@dataclass(frozen=True)
class Picture:
    """A pool: its workers, the seconds until each that takes jobs is free, and its line.

    `line` are the first ids of the line in their order, `takes` the seconds for which each will
    run; None: not known. `new_ahead` is the number of jobs ahead of a new one of usual priority.
    """

    workers: Sequence[Worker]
    free_in: Sequence[float | None]
    line: Sequence[str]
    takes: Mapping[str, float | None]
    new_ahead: int
    at: float  # time.monotonic

    @property
    def taking(self) -> list[Worker]:
        """The workers that take jobs."""
        return [worker for worker in self.workers if worker.state.takes_jobs]

    @property
    def most_gpus(self) -> int:
        """GPUs of the largest worker that takes jobs."""
        return max((len(worker.gpus) for worker in self.taking), default=0)

    @property
    def has_idle(self) -> bool:
        """Whether a worker waits for a job."""
        return any(worker.state is WorkerState.IDLE for worker in self.workers)

    def seconds(self, ahead: int, job_id: str | None = None) -> float | None:
        """Seconds until a job starts that has so many ahead of it; None if that is not known."""
        passed = time.monotonic() - self.at
        free = [None if seconds is None else seconds - passed for seconds in self.free_in]
        before = self.line[:ahead]
        if job_id in self.line:
            before = self.line[: self.line.index(job_id)]
        takes = [self.takes.get(one) for one in before]
        return seconds_until_start(free, takes, max(0, ahead - len(self.line)))


def take_picture(store: JobStore, pool: str, workers: Iterable[Worker]) -> Picture:
    """The pool as it is now; raises one of `jobs.errors.STORE_AWAY`."""
    own = [worker for worker in workers if worker.pool == pool]
    now, keys = store.now(), store.keys
    running = [worker.job for worker in own if worker.job is not None]
    line = store.queues.next_in_turn(pool, _LINE)
    ended = store.redis.zrevrange(keys.jobs_in(State.SUCCEEDED), 0, _ENDED - 1)
    with store.redis.pipeline(transaction=False) as pipe:
        for job_id in running:
            pipe.hgetall(keys.job(job_id))
        for job_id in (*line, *ended):
            pipe.hmget(keys.job(job_id), _NAMES)
        found = pipe.execute()
    records = found[: len(running)]
    others = [dict(zip(_NAMES, values, strict=True)) for values in found[len(running) :]]
    waiting, past = others[: len(line)], others[len(line) :]
    experience = Experience()
    for fields in past:
        if fields["pool"] == pool and (facts := _facts(fields)) is not None:
            experience.add(facts, has_ended=True)
    at_work: dict[str, Facts | float] = {}
    for job_id, fields in zip(running, records, strict=True):
        if (facts := _facts(fields, now)) is not None:
            experience.add(facts, has_ended=False)
            at_work[job_id] = 0.0 if fields.get("request") else facts
    free_in = [
        _free_in(at_work.get(worker.job or ""), worker, experience)
        for worker in own
        if worker.state.takes_jobs
    ]
    takes = {
        job_id: experience.left_of_waiting(facts) if (facts := _facts(fields)) else None
        for job_id, fields in zip(line, waiting, strict=True)
    }
    usual = JobSpec.model_fields["priority"].default
    ahead = store.queues.place_of_new(pool, usual).ahead
    return Picture(own, free_in, line, takes, ahead, time.monotonic())


def _free_in(job: Facts | float | None, worker: Worker, experience: Experience) -> float | None:
    """Seconds until a worker is free; one whose job was asked to leave is as good as that."""
    if worker.job is None:
        return 0.0
    return experience.left_of_running(job) if isinstance(job, Facts) else job


def _facts(fields: Mapping[str, str | None], now: float | None = None) -> Facts | None:
    """The facts of a record; None for one that is gone or cannot be read."""
    try:
        return Facts.of(fields, now)
    except ValueError:
        return None
