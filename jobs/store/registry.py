"""The register of workers in Redis: who is there, what each does, and how full the pools are.

An entry expires, by the clock of Redis, when its worker does not renew it. What a worker does
is never told twice: the scripts that give it a job or take it away write its entry too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from redis import Redis

from jobs.errors import WorkerNotFoundError
from jobs.model.workers import Pool, Worker, WorkerState
from jobs.store.clock import redis_time
from jobs.store.keys import Keys
from jobs.store.scripts import Scripts


class WorkerRegistry:
    """Reads and changes the register; every method may raise one of `jobs.errors.STORE_AWAY`."""

    def __init__(self, redis: Redis, *, prefix: str, lease_seconds: float) -> None:
        # Any: the library's types cannot know that this client answers in `str`.
        self._redis: Any = redis
        self._keys = Keys(prefix)
        self._lease_seconds = lease_seconds
        self._run = Scripts(redis, prefix)

    # -- what a worker says ---------------------------------------------------------------

    def renew(
        self,
        name: str,
        *,
        pool: str,
        host: str,
        gpus: Sequence[str] = (),
        unhealthy: str = "",
        leaving: str = "",
        drained: bool = False,
    ) -> WorkerState:
        """The worker's state, whose entry now lasts another lease.

        `leaving` is why it ends, '' while it stays; `drained` is what it knows of itself, which
        holds where Redis has forgotten it.
        """
        _, state = self._run(
            "workers/renew", name, pool, host, json.dumps(list(gpus)), self._lease_seconds,
            unhealthy, leaving, "yes" if drained else "",
        )  # fmt: skip
        return WorkerState(state)

    def leave(self, name: str) -> None:
        """Takes a worker that ends out of the register."""
        self._run("workers/remove", name)

    # -- what a person asks ---------------------------------------------------------------

    def drain(self, name: str) -> Worker:
        """The worker, which claims no further job until `undrain` or its end.

        Raises `WorkerNotFoundError`.
        """
        return self._drain(name, "yes")

    def undrain(self, name: str) -> Worker:
        """The worker, which takes jobs again; raises like `drain`."""
        return self._drain(name, "")

    # -- read -----------------------------------------------------------------------------

    def get(self, name: str) -> Worker | None:
        """The worker of that name, None for one that is not there."""
        return next((worker for worker in self.workers() if worker.name == name), None)

    def workers(self) -> list[Worker]:
        """The workers that are there, by pool and name."""
        now = redis_time(self._redis)
        names = self._redis.zrangebyscore(self._keys.workers, f"({now}", "+inf")
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(self._keys.worker(name))
            found = [_worker(fields) for fields in pipe.execute() if fields]
        return sorted(found, key=lambda worker: (worker.pool, worker.name))

    def pools(self, workers: Sequence[Worker] | None = None) -> list[Pool]:
        """The pools that have workers or ever had a job, by name."""
        workers = self.workers() if workers is None else workers
        names = {*self._redis.smembers(self._keys.pools), *(w.pool for w in workers)}
        return self._count(sorted(names), workers)

    def pool(self, name: str) -> Pool:
        """The pool of that name; one that nobody has heard of is empty."""
        return self._count([name], self.workers())[0]

    def _count(self, names: Sequence[str], workers: Sequence[Worker]) -> list[Pool]:
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
                    wanted=queued + due + running,
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


def _worker(fields: Mapping[str, str]) -> Worker:
    """The worker that an entry tells of."""
    state = WorkerState(fields["state"])
    return Worker(
        name=fields["name"],
        pool=fields["pool"],
        host=fields["host"],
        gpus=json.loads(fields["gpus"]),
        state=state,
        job=fields["job"] or None,
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
