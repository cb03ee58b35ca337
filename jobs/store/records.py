"""Raw records of jobs: what the backup copies to storage, and what `reindex` brings back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from redis import Redis

from jobs.store.keys import Keys
from jobs.store.scripts import Scripts

# An event as the stream stores it: its id, and its fields `at`, `type`, `data` (JSON), `by` and
# `address`; those that are missing are ''.
RawEvent = tuple[str, str, str, str, str, str]
_FIELDS = ("at", "type", "data", "by", "address")

IDEMPOTENCY_SECONDS = 7 * 24 * 3600
_PAGE = 200


class RawRecords:
    """Reads and restores records as Redis holds them; raises `jobs.errors.STORE_AWAY`."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis: Any = redis  # answers in `str`
        self._keys = Keys(prefix)
        self._run = Scripts(redis, prefix)

    # -- backup -------------------------------------------------------------------------------

    def read(self, job_id: str) -> tuple[dict[str, str], list[RawEvent]] | None:
        """The hash of a job and its events at one moment; None for an unknown job."""
        with self._redis.pipeline(transaction=True) as pipe:
            fields, events = (
                pipe.hgetall(self._keys.job(job_id)).xrange(self._keys.events(job_id)).execute()
            )
        if not fields:
            return None
        return fields, [
            raw_event([entry, *(found.get(name, "") for name in _FIELDS)])
            for entry, found in events
        ]

    def dirty(self, limit: int) -> list[tuple[str, float]]:
        """(job id, time of its change) of jobs without a current backup, oldest change first."""
        found = self._redis.zrange(self._keys.dirty, 0, limit - 1, withscores=True)
        return [(job_id, at) for job_id, at in found]

    def backed_up(self, job_id: str, at: float) -> str:
        """Records that storage has a copy of the record as changed at `at`.

        Returns 'ok', 'changed' when the record needs another backup, or 'missing' when the job
        is gone.
        """
        return self._run("reaper/backed_up", job_id, repr(at))[0]

    def postpone(self, job_id: str) -> None:
        """Moves a job to the end of the line of those that need a backup."""
        self._redis.zadd(self._keys.dirty, {job_id: time.time()}, xx=True)

    # -- reindex ------------------------------------------------------------------------------

    def any(self) -> bool:
        """Whether Redis has the record of any job."""
        return bool(self._redis.exists(self._keys.jobs))

    def sequences(self) -> dict[str, int]:
        """The sequence number of every job, by id."""
        found = self._redis.zrange(self._keys.jobs, 0, -1, withscores=True)
        return {job_id: int(sequence) for job_id, sequence in found}

    def specs(self) -> Iterator[str]:
        """The specification of each job, as JSON."""
        ids = list(self.sequences())
        for start in range(0, len(ids), _PAGE):
            with self._redis.pipeline(transaction=False) as pipe:
                for job_id in ids[start : start + _PAGE]:
                    pipe.hget(self._keys.job(job_id), "spec")
                yield from (spec for spec in pipe.execute() if spec)

    def last_sequence(self) -> int:
        """The sequence number of the last submission; 0 before the first."""
        return int(self._redis.get(self._keys.sequence) or 0)

    def attempt(self, job_id: str) -> int | None:
        """The number of a job's newest attempt; None for an unknown job."""
        found = self._redis.hget(self._keys.job(job_id), "attempt")
        return None if found is None else int(found)

    def rebuild(
        self,
        job_id: str,
        fields: Mapping[str, str],
        events: Sequence[RawEvent],
        *,
        newest_attempt: int,
        lease_seconds: float,
        event: Mapping[str, Any],
    ) -> tuple[str, str]:
        """Restores a record that Redis does not have, with its place in every index.

        `newest_attempt` is the newest one that storage knows of, `event` the data of the event
        that reports the restore. Returns ('ok', 'rebuilt' or 'known'), or ('changed', the attempt
        that Redis had) where Redis was the older of the two.
        """
        return self._run(
            "reaper/rebuild", job_id, newest_attempt, lease_seconds, json.dumps(fields),
            json.dumps([_entry(event) for event in events]), IDEMPOTENCY_SECONDS, json.dumps(event),
        )  # fmt: skip


def raw_event(parts: Sequence[object]) -> RawEvent:
    """The event of its parts; raises ValueError for other ones.

    Copies that earlier versions made lack who caused it.
    """
    event_id, at, kind, data, by, address = (*map(str, parts), "", "")[: max(6, len(parts))]
    return event_id, at, kind, data, by, address


def _entry(event: RawEvent) -> dict[str, object]:
    """The event as a script adds it to a stream."""
    fields = zip(_FIELDS, event[1:], strict=True)
    return {"id": event[0], "fields": [part for pair in fields if pair[1] for part in pair]}
