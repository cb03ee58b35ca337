"""The state of the whole service in a handful of numbers, read in one round trip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from jobs.model.states import State
from jobs.store.keys import Keys


@dataclass(frozen=True)
class Snapshot:
    """What a scrape reports; the same cost however many jobs there are."""

    jobs: Mapping[State, int]
    submitted: int
    counters: Mapping[str, float]  # sums over ended attempts, by the names in `jobs.store.counters`
    dirty: int  # jobs without a current backup
    reaper_pass_age: float | None  # seconds since the reaper's last pass; None before the first


def take_snapshot(redis: Redis, keys: Keys) -> Snapshot:
    """The service as it is now; raises one of `jobs.errors.STORE_AWAY`."""
    client: Any = redis  # answers in `str`
    with client.pipeline(transaction=False) as pipe:
        for state in State:
            pipe.zcard(keys.jobs_in(state))
        pipe.get(keys.sequence)
        pipe.hgetall(keys.counters)
        pipe.zcard(keys.dirty)
        pipe.get(keys.reaped)
        pipe.time()
        *counts, sequence, counters, dirty, reaped, (seconds, micros) = pipe.execute()
    return Snapshot(
        jobs=dict(zip(State, counts, strict=True)),
        submitted=int(sequence or 0),
        counters={name: float(value) for name, value in counters.items()},
        dirty=dirty,
        reaper_pass_age=seconds + micros / 1e6 - float(reaped) if reaped else None,
    )
