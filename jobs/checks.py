"""What must be right for a process of the service to work, and what to change where it is not.

Asked at the start of a worker, by `/readyz` and by `spectrain doctor`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from redis import Redis
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from jobs.settings import Settings
from jobs.store.clock import redis_time
from jobs.store.keys import Keys

log = logging.getLogger(__name__)

# Processes that said so long ago (seconds) or less that they are there, and wrote a probe, are.
_THERE_SECONDS = 300.0
_LOOKED_AT = 3


class Probe(Protocol):
    """A file in storage that each process writes: `monitoring.storage.probe.StorageProbe`.

    Its methods raise an exception whose text says what to change.
    """

    def write(self, name: str) -> float:
        """Stores it; when that was by the store's clock."""

    def sees(self, name: str) -> bool:
        """Whether that of another process is there."""

    def remove(self, name: str) -> None:
        """Removes one."""


@dataclass(frozen=True)
class Finding:
    """What one look found: `problem` says what to change, '' where all is well."""

    part: str
    problem: str = ""


class Checks:
    """Looks at Redis, the clocks and storage; `clock` is that of this machine."""

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        probe: Probe,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis: Any = redis  # answers in `str`
        self._settings = settings
        self._probe = probe
        self._clock = clock
        self._key = Keys(settings.redis_prefix).probes
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"

    def run(self) -> list[Finding]:
        """One finding a part; those of storage also while Redis is away."""
        ahead_of_storage, storage = self._of_storage()
        # Only then is it told of: whoever reads that name looks for the file.
        ahead, redis = self._of_redis(tell=not storage)
        clock = self._of_clock(ahead, "that of Redis")
        found = [Finding("redis", redis), Finding("clock", clock), Finding("storage", storage)]
        if not storage:
            off = self._of_clock(ahead_of_storage, "that of storage")
            found.append(Finding("storage's clock", off))
        if not storage and not redis:
            found.append(Finding("shared storage", self._of_others()))
        return found

    def tell(self) -> None:
        """Says again that this process is there; nothing happens while Redis is away."""
        with contextlib.suppress(RedisError):
            self._redis.zadd(self._key, {self.name: redis_time(self._redis)}, xx=True)

    def leave(self) -> None:
        """Takes this process's probe away; nothing happens where that cannot be done."""
        with contextlib.suppress(Exception):  # others remove it, in time
            self._redis.zrem(self._key, self.name)
            self._probe.remove(self.name)

    # -- one part each ------------------------------------------------------------------------

    def _of_redis(self, *, tell: bool) -> tuple[float, str]:
        """How far this clock is ahead of that of Redis, and what is wrong with Redis."""
        pool = self._redis.connection_pool.connection_kwargs
        where = pool.get("path") or f"{pool.get('host')}:{pool.get('port')}"
        try:
            before = self._clock()
            now = redis_time(self._redis)
            ahead = _ahead(before, now, self._clock())
            memory = self._redis.info("memory")
            # Also where there is nothing to tell: it must take writes.
            self._redis.zadd(self._key, {self.name: now}, xx=not tell)
        except RedisError as error:
            return 0.0, redis_in_words(error, where)
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and memory.get("maxmemory", 0):
            return ahead, (
                f"Redis at {where} may throw records away (maxmemory-policy {policy}): "
                "set it to noeviction"
            )
        return ahead, ""

    def _of_clock(self, ahead: float, whose: str) -> str:
        """What is wrong with a clock: leases and signs of life are compared between them."""
        if abs(ahead) <= max(5.0, self._settings.lease_seconds):
            return ""
        return (
            f"the clock of this machine is {abs(ahead):.0f} s "
            f"{'ahead of' if ahead > 0 else 'behind'} {whose}: let both follow a time server (NTP)"
        )

    def _of_storage(self) -> tuple[float, str]:
        """How far this clock is ahead of that of storage, and what is wrong with storage."""
        before = self._clock()
        try:
            modified = self._probe.write(self.name)
        except Exception as error:
            return 0.0, str(error) or repr(error)
        return _ahead(before, modified, self._clock()), ""

    def _of_others(self) -> str:
        """What is wrong where processes write to different volumes under one name."""
        try:
            now = redis_time(self._redis)
            for gone in self._redis.zrangebyscore(self._key, "-inf", now - 5 * _THERE_SECONDS):
                self._probe.remove(gone)
                self._redis.zrem(self._key, gone)
            there = self._redis.zrevrangebyscore(self._key, "+inf", now - _THERE_SECONDS)
            others = [name for name in there if name != self.name][:_LOOKED_AT]
            hidden = [name for name in others if not self._probe.sees(name)]
        except Exception as error:
            return str(error) or repr(error)
        if not hidden:
            return ""
        return (
            f"process {hidden[0]} writes to {self._settings.storage_url} as well, and what it "
            "writes is not here: they have different volumes under that name. All must mount the "
            "same one: on Kubernetes a claim with ReadWriteMany, else one machine, or S3"
        )


def _ahead(before: float, other: float, after: float) -> float:
    """How far a clock is ahead of another that was read between two of its own readings."""
    return before - other if other < before else min(0.0, after - other)


def redis_in_words(error: RedisError, where: str) -> str:
    """What is wrong with a Redis, and what to change."""
    text = str(error)
    if isinstance(error, (AuthenticationError, NoPermissionError)) or "NOAUTH" in text:
        return f"Redis at {where} refuses the password: put the right one in SPECTRAIN_REDIS_URL"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            f"the certificate of Redis at {where} is not trusted: add the file of its authority to "
            "SPECTRAIN_REDIS_URL (…?ssl_ca_certs=/path/ca.crt)"
        )
    if "MISCONF" in text or "No space left" in text:
        return f"Redis at {where} cannot write to its disk: make room on its volume ({text})"
    if isinstance(error, ResponseError):
        return f"Redis at {where} refuses: {text}"
    return f"Redis cannot be reached at {where}: start it, or change SPECTRAIN_REDIS_URL ({text})"


class StartupChecks:
    """The checks at the start of a process, in a thread of its own until all is well.

    `verdict` is what is wrong, and `on_change` is called with each new one. Once all was well, what
    fails is away for a while, and each part waits for its own: nothing is looked at any more.
    """

    _SOON, _NOW_AND_THEN = 5.0, _THERE_SECONDS / 3

    def __init__(self, checks: Checks, on_change: Callable[[], None]) -> None:
        self._checks = checks
        self._on_change = on_change
        self._stop = threading.Event()
        self._looked = threading.Event()
        self.verdict = "its storage has not answered yet"

    def start(self, patience: float = 2.0) -> None:
        """Begins; returns with the first verdict, or after so many seconds without one."""
        threading.Thread(target=self._run, name="checks", daemon=True).start()
        self._looked.wait(patience)

    def stop(self) -> None:
        """Ends it, and takes the probe away."""
        self._stop.set()
        self._checks.leave()

    def _run(self) -> None:
        while self.verdict and not self._stop.is_set():
            before, self.verdict = self.verdict, self._look()
            self._looked.set()
            if self.verdict != before:
                self._on_change()
            if self.verdict:
                self._stop.wait(self._SOON)
        while not self._stop.wait(self._NOW_AND_THEN):
            self._checks.tell()

    def _look(self) -> str:
        try:
            return "; ".join(found.problem for found in self._checks.run() if found.problem)
        except Exception as error:  # whatever it is, it is looked at again
            log.exception("the checks of the start failed")
            return f"its checks failed: {error!r}"
