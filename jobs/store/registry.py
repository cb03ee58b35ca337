"""The registry of workers in Redis: which are running, what each does, how full the pools are.

A registration expires, by the clock of Redis, unless its worker renews it. The state of a worker
has one source: the scripts that give it a job or take the job away update its registration too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from redis import Redis

from jobs.errors import WorkerNotFoundError
from jobs.model.workers import Gpu, Pool, Worker, WorkerState
from jobs.store.clock import redis_time
from jobs.store.keys import Keys
from jobs.store.scripts import Scripts

_GPUS = TypeAdapter(list[Gpu])


class WorkerRegistry:
    """Reads and changes the registry; every method may raise one of `jobs.errors.STORE_AWAY`."""

    def __init__(self, redis: Redis, *, prefix: str, lease_seconds: float) -> None:
        # Any: the library's types cannot know that this client answers in `str`.
        self._redis: Any = redis
        self._keys = Keys(prefix)
        self._lease_seconds = lease_seconds
        self._run = Scripts(redis, prefix)

    # -- calls of a worker -----------------------------------------------------------------

    def renew(
        self,
        name: str,
        *,
        pool: str,
        host: str,
        gpus: Sequence[str] = (),
        gpu_states: Sequence[Gpu] = (),
        unhealthy: str = "",
        leaving: str = "",
        drained: bool = False,
    ) -> WorkerState:
        """Renews a registration for another lease; returns the state of the worker.

        `leaving` is why the worker ends, '' while it stays. `drained` is what the worker remembers;
        it counts where Redis has no registration of it.
        """
        states = _GPUS.dump_json(list(gpu_states)).decode()
        _, state = self._run(
            "workers/renew", name, pool, host, json.dumps(list(gpus)), self._lease_seconds,
            unhealthy, leaving, "yes" if drained else "", states,
        )  # fmt: skip
        return WorkerState(state)

    def leave(self, name: str) -> None:
        """Removes a worker that ends from the registry."""
        self._run("workers/remove", name)

    # -- calls of an operator --------------------------------------------------------------

    def drain(self, name: str) -> Worker:
        """Drains a worker: it claims no further job until `undrain` or its end.

        Raises `WorkerNotFoundError`.
        """
        return self._drain(name, "yes")

    def undrain(self, name: str) -> Worker:
        """Lets a drained worker claim jobs again; raises like `drain`."""
        return self._drain(name, "")

    # -- read -----------------------------------------------------------------------------

    def get(self, name: str) -> Worker | None:
        """The worker of that name; None for one that is not registered."""
        return next((worker for worker in self.workers() if worker.name == name), None)

    def workers(self) -> list[Worker]:
        """The registered workers, by pool and name."""
        now = redis_time(self._redis)
        names = self._redis.zrangebyscore(self._keys.workers, f"({now}", "+inf")
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(self._keys.worker(name))
            found = [fields for fields in pipe.execute() if fields]
        reserved = self._reserved([(fields["name"], fields["job"]) for fields in found])
        workers = map(_worker, found, reserved)
        return sorted(workers, key=lambda worker: (worker.pool, worker.name))

    def _reserved(self, workers: Sequence[tuple[str, str]]) -> list[str | None]:
        """For which job each worker makes room, or has: workers by their names and jobs."""
        with self._redis.pipeline(transaction=False) as pipe:
            for name, job in workers:
                pipe.get(self._keys.reserved(name))
                pipe.hget(self._keys.job(job), "evicted_for")
            answers = pipe.execute()
        return [
            one or other or None for one, other in zip(answers[::2], answers[1::2], strict=True)
        ]

    def pools(self, workers: Sequence[Worker] | None = None) -> list[Pool]:
        """The pools that have workers or ever had a job, by name."""
        workers = self.workers() if workers is None else workers
        names = {*self._redis.smembers(self._keys.pools), *(w.pool for w in workers)}
        return self._count(sorted(names), workers)

    def pool(self, name: str) -> Pool:
        """The pool of that name; an unknown one is empty."""
        return self._count([name], self.workers())[0]

    def _count(self, names: Sequence[str], workers: Sequence[Worker]) -> list[Pool]:
        _, limited = self._run("jobs/held", json.dumps(names))
        held: dict[str, int] = json.loads(limited)
        now = redis_time(self._redis)
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.zcard(self._keys.pool(name, "queued"))
                # Those whose backoff is over: the next claim considers them.
                pipe.zcount(self._keys.pool(name, "delayed"), "-inf", now)
                pipe.zcard(self._keys.pool(name, "delayed"))
                pipe.zcard(self._keys.pool(name, "running"))
            counts = iter(pipe.execute())
        found = []
        for name in names:
            queued, due, delayed, running = (int(next(counts)) for _ in range(4))
            states = Counter(worker.state for worker in workers if worker.pool == name)
            found.append(
                Pool(
                    name=name,
                    workers={state: states[state] for state in WorkerState},
                    queued=queued + due,
                    delayed=delayed - due,
                    running=running,
                    held=held.get(name, 0),
                    wanted=max(0, queued + due - held.get(name, 0)) + running,
                )
            )
        return found

    # -- the rest -------------------------------------------------------------------------

    def _drain(self, name: str, drained: str) -> Worker:
        status, _ = self._run("workers/drain", name, drained)
        worker = self.get(name)
        if status != "ok" or worker is None:
            raise WorkerNotFoundError(name)
        return worker


def _worker(fields: Mapping[str, str], reserved_for: str | None) -> Worker:
    """The worker of a registration."""
    state = WorkerState(fields["state"])
    return Worker(
        name=fields["name"],
        pool=fields["pool"],
        host=fields["host"],
        gpus=json.loads(fields["gpus"]),
        # A worker of an earlier version reports none.
        gpu_states=_GPUS.validate_json(fields.get("gpu_states") or "[]"),
        state=state,
        job=fields["job"] or None,
        reserved_for=reserved_for,
        reason=_reason(fields),
        since=float(fields["since"]),
        started_at=float(fields["started_at"]),
    )


def _reason(fields: Mapping[str, str]) -> str:
    if fields["unhealthy"]:
        return fields["unhealthy"]
    if fields["leaving"]:
        return fields["leaving"]
    return "it was drained" if fields["drained"] else ""
