"""Queues, leases and the outbox, as the reaper, the evictor and the messenger read them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from jobs.model.record import Job
from jobs.store.keys import Keys
from jobs.store.scripts import Scripts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExpiredLease:
    """A running job whose lease expired at `expired_at` (seconds, the clock of Redis)."""

    job_id: str
    expired_at: float


@dataclass(frozen=True)
class Place:
    """The place of a job that waits for a worker.

    `ahead` is the number of jobs of the pool that would be claimed before it. `held` says, as a
    sentence, which limit of its owner holds it, whatever workers are free; '' if none does.
    """

    ahead: int
    held: str = ""


class Queues:
    """The queues of the pools, the outbox and the leases of one store."""

    def __init__(self, redis: Redis, keys: Keys, aging_seconds: float, run: Scripts) -> None:
        self._redis: Any = redis  # answers in `str`
        self._keys = keys
        self._aging_seconds = aging_seconds
        self._run = run

    def place(self, job: Job) -> Place | None:
        """The place of a job in its pool; None unless it waits for a worker now.

        Follows the order of claims, aging included (`jobs/store/lua/attempts/claim.lua`).
        """
        status, found = self._run("jobs/position", job.id, self._aging_seconds)
        if status != "ok":
            return None
        place = json.loads(found)
        return Place(int(place["ahead"]), _held(job.owner, place))

    def position(self, job: Job) -> int | None:
        """The number of jobs of the pool ahead of a job; None unless it waits for a worker now."""
        place = self.place(job)
        return place.ahead if place else None

    def place_of_new(self, pool: str, priority: int, owner: str | None = None) -> Place:
        """The place that a new job of this priority and owner would have in a pool."""
        _, found = self._run("jobs/position", "", self._aging_seconds, pool, priority, owner or "")
        place = json.loads(found)
        return Place(int(place["ahead"]), _held(owner, place))

    def expired_leases(self, now: float) -> list[ExpiredLease]:
        """The running jobs whose lease had expired at `now`."""
        found = self._redis.zrangebyscore(self._keys.leases, "-inf", now, withscores=True)
        return [ExpiredLease(job_id, expired_at) for job_id, expired_at in found]

    def lease_expiry(self, job_id: str) -> float | None:
        """When the lease of a running job expires, by the clock of Redis; None without a lease."""
        found = self._redis.zscore(self._keys.leases, job_id)
        return None if found is None else float(found)

    def due_messages(self, now: float) -> list[tuple[str, str]]:
        """(pool, job id) of the queued jobs whose message is due at `now` and not sent yet."""
        ids = self._redis.zrangebyscore(self._keys.outbox, "-inf", now)
        pools = self._pools_of(ids)
        return [(pool, job_id) for pool, job_id in zip(pools, ids, strict=True) if pool]

    def message_sent(self, job_id: str, now: float) -> None:
        """Records that the message of the job which was due at `now` was sent."""
        self._run("reaper/sent", job_id, repr(now))

    def pools(self) -> list[str]:
        """Every pool that ever had a job."""
        return sorted(self._redis.smembers(self._keys.pools))

    def counted(self, job: Job) -> int:
        """The aged priority with which a running job was claimed."""
        since = self._redis.hget(self._keys.job(job.id), "waits_since")
        if job.current is None or not since or self._aging_seconds <= 0:
            return job.priority
        waited = max(0.0, job.current.started_at - float(since))
        return min(9, job.priority + int(waited // self._aging_seconds))

    def evicted_for(self, job_id: str) -> str | None:
        """The id of the job that a running one makes room for."""
        return self._redis.hget(self._keys.job(job_id), "evicted_for") or None

    def reserved_for(self, worker: str) -> str | None:
        """The id of the job that the next claim of a worker gets, whatever the order."""
        return self._redis.get(self._keys.reserved(worker)) or None

    def lower_runs(self, pool: str, priority: int) -> bool:
        """Whether a job of a lower priority runs in the pool."""
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in self._redis.zrange(self._keys.pool(pool, "running"), 0, -1):
                pipe.hget(self._keys.job(job_id), "priority")
            return any(int(found) < priority for found in pipe.execute() if found)

    def some_waiting(self, pool: str, most: int) -> list[str]:
        """The ids of up to `most` jobs that could run now, by priority, without aging."""
        return self._turns(pool, 0, most)

    def next_in_turn(self, pool: str, most: int = -1) -> list[str]:
        """The ids of the jobs that would be claimed next, at most `most`, -1 for all.

        Without those that the limits of their owners hold.
        """
        return self._turns(pool, self._aging_seconds, most)

    def repair(self) -> None:
        """Gives the jobs that processes of an earlier version queued a place in their lines."""
        for pool in self.pools():
            if self._run("reaper/lines", pool)[0] == "changed":
                log.info("put the queue of pool %s in order", pool)

    def waiting(self) -> dict[str, list[str]]:
        """The ids of the jobs that could run now by pool, in the order of the queue."""
        found = {pool: self.next_in_turn(pool) for pool in self.pools()}
        return {pool: ids for pool, ids in found.items() if ids}

    def _turns(self, pool: str, aging_seconds: float, most: int) -> list[str]:
        _, ids = self._run("reaper/turns", pool, aging_seconds, most)
        return list(json.loads(ids))

    def _pools_of(self, ids: Sequence[str]) -> list[str | None]:
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hget(self._keys.job(job_id), "pool")
            return list(pipe.execute())


def _held(owner: str | None, place: Mapping[str, Any]) -> str:
    """Which limit of its owner holds a job, as a sentence; '' for none."""
    if place["held"] == "running":
        return (
            f"{owner} runs {place['used']} of {place['most']} jobs that may run at once: it waits "
            "until one of them ends"
        )
    if place["held"] == "gpus":
        return (
            f"running jobs of {owner} use {place['used']} of {place['most']} GPUs, too many for "
            f"the next job of {owner} to start"
        )
    return ""
