"""The reaper: finds what was lost, by the lease and by signs of life, and queues it again."""

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

# A silence of such a share of a lease is an absence: a lease that was renewed before it, five times
# in its life at least, does not run out within it. Never less than so many seconds.
_ABSENCE, _SHORTEST_ABSENCE_SECONDS = 3 / 5, 0.5

# Of a lease, in which the others look five times: so long a reaper that cannot look at storage
# leaves its work to one that may.
_REST = 2 / 5

# Share of a lease after which the lock expires.
_LOCK_LIFE = 3 / 5

# Seconds since the epoch of the newest sign of life that the job's run left in storage, or None;
# raises whatever storage does where it cannot tell.
SignOfLife = Callable[[Job], float | None]


@dataclass(frozen=True)
class Observed:
    """Since when those who judge have been watching, by the clock of Redis."""

    redis_since: float
    reaper_since: float


def is_lost(
    lease: ExpiredLease, sign: float | None, now: float, period: float, observed: Observed
) -> bool:
    """Whether the attempt behind an expired lease is gone.

    Two signs have to agree: the lease ran out, and storage has seen nothing new of the run for a
    whole period either. And nobody is declared dead because the judge was away: Redis and the
    reaper must have been there for a whole period themselves.
    """
    moved = sign is not None and now - sign < period
    return is_watched(now, period, observed) and not moved and lease.expired_at <= now


def is_watched(now: float, period: float, observed: Observed) -> bool:
    """Whether Redis and the reaper have been there for a whole period."""
    return now - max(observed.redis_since, observed.reaper_since) >= period


class Reaper:
    """Works in any number of processes, in one at a time by a lock in Redis that expires."""

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
        # The others look five times in a lease: after a holder dies, one of them takes the lock
        # within that lease.
        life = store.lease_seconds * _LOCK_LIFE
        self._lock = ReaperLock(store.redis, store.prefix, self._name, life)
        self._since: float | None = None
        self._last_pass = 0.0
        self._storage_seconds = 0.0  # that the pass waited for storage
        self.at_work = False  # holds the lock
        # When signs of life from the future were first seen, in this pass and in the one before.
        self._from_the_future: dict[tuple[str, int, float], float] = {}
        self._from_the_future_before = self._from_the_future
        self._blind = False  # storage could not be looked at in this pass
        self._rests_until = 0.0

    def run_once(self) -> list[str]:
        """The ids of the jobs found lost in one pass; nothing where another reaper is at work."""
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
            # It is away, or takes no writes (a full disk, no memory): nobody could renew a lease.
            self._since = None
            raise
        finally:
            # A pass that took long because storage did was no absence.
            self._last_pass = self._store.now()
            self._note_absence(self._last_pass, self._last_pass - now - self._storage_seconds)

    def _note_absence(self, now: float, seconds: float) -> None:
        """Begins to watch anew after so many seconds in which nothing was heard of Redis.

        This process was stopped, or Redis was: then nobody could renew a lease either. Less than
        none: the clock was set back, and no time before that can be compared with one after it.
        """
        absence = max(self._store.lease_seconds * _ABSENCE, _SHORTEST_ABSENCE_SECONDS)
        if self._since is None or not 0 <= seconds <= absence:
            self._since = now

    def _rest(self, now: float, period: float) -> None:
        """Leaves the work for a while to a reaper that may see what this one does not."""
        self.at_work = False
        self._rests_until = now + period * _REST
        self.release()

    def _pass(self, now: float, period: float, since: float) -> list[str]:
        self._blind = False
        self._from_the_future_before, self._from_the_future = self._from_the_future, {}
        self._store.redis.set(self._store.keys.reaped, now)
        self._wake(now)
        uptime = self._store.uptime()
        # Less than none: the clock was set back since Redis started.
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
        # After an outage all workers are back in the register by now, or gone.
        self._evictor.run_once(self._store.now())
        return lost

    def _wake(self, now: float) -> None:
        """Sends what is due, and again what waits without a message."""
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
        """The job's newest sign of life; one from the future counts from when it was first seen.

        Where storage cannot tell, it may have moved just now: the lease alone proves nothing.
        """
        start = time.monotonic()
        try:
            sign = self._sign_of_life(job)
        except Exception as error:  # whatever storage says
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
