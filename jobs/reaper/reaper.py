"""The reaper: finds lost attempts by lease and signs of life, and requeues their jobs."""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError
from redis.exceptions import RedisError

from jobs.errors import JobNotFoundError, StaleAttemptError
from jobs.messages import Messenger
from jobs.model.record import Job
from jobs.model.rules import lost_attempt
from jobs.reaper.evictor import Evictor
from jobs.store.jobs import JobStore
from jobs.store.queues import ExpiredLease
from jobs.store.reaper_lock import ReaperLock

log = logging.getLogger(__name__)

# A gap between passes of this share of a lease counts as an absence. Workers renew a lease five
# times in its life, so a shorter gap cannot let a healthy lease expire. At least so many seconds.
_ABSENCE, _SHORTEST_ABSENCE_SECONDS = 3 / 5, 0.5

# A reaper that cannot read storage pauses for this share of a lease. The others try the lock five
# times per lease, so one of them takes over.
_REST = 2 / 5

# Share of a lease after which the lock expires.
_LOCK_LIFE = 3 / 5

# Time of the newest sign of life of a job in storage, seconds since the epoch, or None; raises the
# errors of storage.
SignOfLife = Callable[[Job], float | None]


@dataclass(frozen=True)
class Observed:
    """Since when Redis and the reaper have been running, by the clock of Redis."""

    redis_since: float
    reaper_since: float


def is_lost(
    lease: ExpiredLease, sign: float | None, now: float, period: float, observed: Observed
) -> bool:
    """Whether the attempt behind an expired lease is lost.

    Two signs have to agree: the lease expired, and storage got nothing new of the run for a whole
    lease period. An outage of Redis or of the reaper must not count against workers: both must
    have been running for a whole period.
    """
    moved = sign is not None and now - sign < period
    return is_watched(now, period, observed) and not moved and lease.expired_at <= now


def is_watched(now: float, period: float, observed: Observed) -> bool:
    """Whether Redis and the reaper have been running for a whole period."""
    return now - max(observed.redis_since, observed.reaper_since) >= period


class Reaper:
    """May run in any number of processes; a lock in Redis that expires lets one work at a time."""

    def __init__(
        self,
        store: JobStore,
        messenger: Messenger,
        sign_of_life: SignOfLife,
        *,
        eviction_min_seconds: float = 120.0,
    ) -> None:
        self._store = store
        self._evictor = Evictor(store, eviction_min_seconds)
        self._messenger = messenger
        self._sign_of_life = sign_of_life
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        # The others try the lock five times per lease: after its holder dies, one of them takes
        # over within a lease.
        life = store.lease_seconds * _LOCK_LIFE
        self._lock = ReaperLock(store.redis, store.prefix, self._name, life)
        self._since: float | None = None
        self._last_pass = 0.0
        self._storage_seconds = 0.0  # time that the pass waited for storage
        self.at_work = False  # holds the lock
        # When signs of life from the future were first seen, in this pass and in the previous one.
        self._from_the_future: dict[tuple[str, int, float], float] = {}
        self._from_the_future_before = self._from_the_future
        self._blind = False  # storage could not be read in this pass
        self._rests_until = 0.0

    def run_once(self) -> list[str]:
        """One pass; returns the ids of lost jobs, none while another reaper is at work."""
        now = self._store.now()
        period = self._store.lease_seconds
        self._note_absence(now, now - self._last_pass)
        self._storage_seconds = 0.0
        try:
            self.at_work = now >= self._rests_until and self._lock.hold()
            if not self.at_work:
                return []
            lost = self._pass(now, period, self._since or now)
            if self._blind:
                self._rest(now, period)
            return lost
        except RedisError:
            # Unreachable, or it refuses writes (full disk, no memory): no worker can renew a lease.
            self._since = None
            raise
        finally:
            # Time spent waiting for storage is no absence.
            self._last_pass = self._store.now()
            self._note_absence(self._last_pass, self._last_pass - now - self._storage_seconds)

    def _note_absence(self, now: float, seconds: float) -> None:
        """Restarts the period of observation after a long gap between two passes.

        Redis may have been stopped in that gap, and then no worker could renew its lease. A
        negative gap means that the clock was set back: earlier times cannot be compared any more.
        """
        absence = max(self._store.lease_seconds * _ABSENCE, _SHORTEST_ABSENCE_SECONDS)
        if self._since is None or not 0 <= seconds <= absence:
            self._since = now

    def _rest(self, now: float, period: float) -> None:
        """Pauses, so that another reaper, which may be able to read storage, takes over."""
        self.at_work = False
        self._rests_until = now + period * _REST
        self.release()

    def _pass(self, now: float, period: float, since: float) -> list[str]:
        self._blind = False
        self._from_the_future_before, self._from_the_future = self._from_the_future, {}
        self._store.redis.set(self._store.keys.reaped, now)
        self._store.queues.repair()
        self._wake(now)
        uptime = self._store.uptime()
        # A negative uptime: the clock was set back since Redis started, or it may not be asked.
        observed = Observed(redis_since=now - uptime if uptime >= 0 else since, reaper_since=since)
        if not is_watched(now, period, observed):
            return []
        lost = [
            lease.job_id
            for lease in self._store.queues.expired_leases(now)
            if self._judge(lease, now, period, observed)
        ]
        if lost:
            self._wake(self._store.now())
        # After an outage, all workers have registered again by now, or are gone.
        self._evictor.run_once(self._store.now())
        return lost

    def _wake(self, now: float) -> None:
        """Sends messages that are due, and messages for jobs that wait without one."""
        self._messenger.flush(now)
        self._messenger.sweep()

    def _judge(self, lease: ExpiredLease, now: float, period: float, observed: Observed) -> bool:
        try:
            job = self._store.get(lease.job_id)
            if not is_lost(lease, self._sign(job, now), now, period, observed):
                return False
            silent = now - lease.expired_at + period
            after = self._store.finish(job.id, lost_attempt(job, now, silent), lease=lease)
        except (JobNotFoundError, StaleAttemptError):
            return False
        except ValidationError as error:
            log.error("the record of job %s cannot be read: %s", lease.job_id, error)
            return False
        if after is None:
            return False
        log.warning("job %s: %s; it is %s now", job.id, after.message, after.state)
        return True

    def _sign(self, job: Job, now: float) -> float | None:
        """The newest sign of life of a job; one from the future counts from when it was first seen.

        An error of storage counts as a sign of life: the expired lease alone proves nothing.
        """
        start = time.monotonic()
        try:
            sign = self._sign_of_life(job)
        except Exception as error:  # of any kind of storage
            log.warning("cannot tell whether job %s is lost: %s", job.id, error)
            self._blind = True
            return math.inf
        finally:
            self._storage_seconds += time.monotonic() - start
        if sign is None or sign <= now:
            return sign
        key = (job.id, job.attempt, sign)
        return self._from_the_future.setdefault(key, self._from_the_future_before.get(key, now))

    def release(self) -> None:
        """Releases the lock, so that another reaper starts to work at once."""
        self._lock.release()
