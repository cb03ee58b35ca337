"""The jobs that lists show, kept in memory: only those that an event names are read again."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from jobs.model.record import Job
from jobs.model.states import State
from jobs.store.jobs import JobStore
from jobs.store.scripts import Scripts

# Progress is no event: a running job is read again after so long.
_GOOD_SECONDS = 1.0
_MOST = 4000
_MOST_EVENTS = 1000


@dataclass(frozen=True)
class Filter:
    """What jobs to look for: those with these words, or some more; '' for any."""

    pool: str = ""
    owner: str = ""
    forked_from: str = ""
    strings: Mapping[str, str] = field(default_factory=dict)  # of the specification, by key


@dataclass(frozen=True)
class _Kept:
    job: Job | None  # None: its record cannot be read
    at: float  # time.monotonic


class RecentJobs:
    """The newest jobs of a store, as they are now; raises one of `jobs.errors.STORE_AWAY`."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._run = Scripts(store.redis, store.prefix)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._event = ""  # up to which the kept jobs are known to be as they were read

    def newest(self, *, state: State | None, before: int | None, at_once: int) -> Iterator[Job]:
        """The jobs submitted before sequence number `before`, newest first; see `JobStore`."""
        with self._lock:
            self._forget_changed()
        while found := self._ids(state, before, at_once):
            with self._lock:
                jobs = self._jobs([job_id for job_id, _ in found])
            yield from (job for job in jobs if job and (state is None or job.state is state))
            before = found[-1][1]

    def candidates(
        self, wanted: Filter, *, state: State | None, before: int | None, most: int
    ) -> tuple[list[Job], int | None]:
        """Those of the next `most` jobs that may match, newest first, and where to go on.

        The latter is None behind the oldest job. Redis looks through the records, so that those
        which do not match are not read.
        """
        with self._lock:
            self._forget_changed()
        _, text = self._run(
            "jobs/candidates", f"jobs:state:{state}" if state else "jobs:all",
            "" if before is None else before, most, wanted.pool, wanted.owner,
            wanted.forked_from, json.dumps(wanted.strings),
        )  # fmt: skip
        answer = json.loads(text)
        with self._lock:
            jobs = self._jobs(answer.get("found", [])[::2])
        found = [job for job in jobs if job and (state is None or job.state is state)]
        return found, int(answer["last"]) if answer["looked"] == most else None

    def _ids(self, state: State | None, before: int | None, most: int) -> list[tuple[str, int]]:
        keys = self._store.keys
        index = keys.jobs_in(state) if state else keys.jobs
        bound = "+inf" if before is None else f"({before}"
        found = self._store.redis.zrevrangebyscore(
            index, bound, "-inf", start=0, num=most, withscores=True
        )
        return [(job_id, int(sequence)) for job_id, sequence in found]

    def _forget_changed(self) -> None:
        """Forgets the jobs that have an event since the last call."""
        last = self._event
        events = self._store.all_events(after=last, limit=_MOST_EVENTS) if last else []
        for event in events:
            self._kept.pop(event.job, None)
            self._event = event.id
        if len(events) == _MOST_EVENTS or (not events and self._store.last_event() != last):
            # Too many, the first call, or another Redis than before.
            self._event = self._store.last_event()
            self._kept.clear()

    def _jobs(self, ids: list[str]) -> list[Job | None]:
        now = time.monotonic()
        unknown = [job_id for job_id in ids if not self._is_good(job_id, now)]
        for job_id, job in zip(unknown, self._store.get_many(unknown), strict=True):
            self._kept[job_id] = _Kept(job, now)
        found = [self._kept[job_id].job for job_id in ids]
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        return found

    def _is_good(self, job_id: str, now: float) -> bool:
        kept = self._kept.get(job_id)
        if kept is None:
            return False
        is_running = kept.job is not None and kept.job.state is State.RUNNING
        return not is_running or now - kept.at < _GOOD_SECONDS
