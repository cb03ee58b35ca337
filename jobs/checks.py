"""Checks of Redis, the clocks and storage; each problem says what to change.

Workers run them at their start, the API for `/readyz`, and operators with `spectrain doctor`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis import Redis
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.sentinel import MasterNotFoundError

from jobs.redis_address import where_is
from jobs.settings import Settings
from jobs.store.clock import redis_time
from jobs.store.keys import Keys

log = logging.getLogger(__name__)

# A process counts as running for so long after its last report, seconds.
_FRESH_SECONDS = 300.0
_CLUSTER = (
    "Redis at {where} is part of a cluster, which keeps keys on several servers; each change of a "
    "job is one script over keys of all kinds: use one Redis, or one with replicas and Sentinel "
    "(redis+sentinel://…)"
)
# Kinds of errors, or what is in their text, and what they mean.
_EXPLAINED: list[tuple[tuple[type[Exception], ...], tuple[str, ...], str]] = [
    (
        (NoPermissionError,), (),
        "the user of Redis at {where} may not do that: give it the rules in docs/settings.md "
        "({text})",
    ),
    ((MovedError, ClusterDownError), ("CROSSSLOT", "SELECT is not allowed in cluster"), _CLUSTER),
    (
        (AuthenticationError,), ("NOAUTH",),
        "Redis at {where} refuses the password: put the right one in SPECTRAIN_REDIS_URL",
    ),
    (
        (), ("CERTIFICATE_VERIFY_FAILED",),
        "the certificate of Redis at {where} is not trusted: add the file of its authority to "
        "SPECTRAIN_REDIS_URL (…?ssl_ca_certs=/path/ca.crt)",
    ),
    (
        (MasterNotFoundError,), (),
        "no Sentinel of {where} knows a Redis that is up: start one, or change the service's name "
        "in SPECTRAIN_REDIS_URL ({text})",
    ),
    (
        (), ("MISCONF", "No space left"),
        "Redis at {where} cannot write to its disk: make room on its volume ({text})",
    ),
]  # fmt: skip
# The number of other processes whose probes a check looks for.
_OTHERS = 3


class Probe(Protocol):
    """A file that each process writes to storage: `monitoring.storage.probe.StorageProbe`.

    Its methods raise exceptions whose messages say what to change.
    """

    def write(self, name: str) -> float:
        """Writes the probe of a process; returns the time by the clock of storage."""

    def sees(self, name: str) -> bool:
        """Whether storage has the probe of another process."""

    def try_out(self, name: str, *, thoroughly: bool = False) -> Sequence[str]:
        """Tries what will be needed later; what storage lacks and is done without."""

    def remove(self, name: str) -> None:
        """Removes the probe of a process."""


@dataclass(frozen=True)
class Finding:
    """The result of one check: `problem` says what to change, '' for none.

    `note` says what is worth knowing although it works.
    """

    part: str
    problem: str = ""
    note: str = ""


class Checks:
    """Checks Redis, the clocks and storage; `clock` is the clock of this machine."""

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
        """One finding per part; storage is checked also while Redis is unreachable."""
        ahead_of_storage, storage = self._of_storage()
        # Reported only with a probe in storage: other processes look for it there.
        ahead, redis = self._of_redis(report=not storage)
        clock = self._of_clock(ahead, "that of Redis")
        found = [Finding("redis", redis), Finding("clock", clock), Finding("storage", storage)]
        if not storage:
            off = self._of_clock(ahead_of_storage, "that of storage")
            found.append(Finding("storage's clock", off))
        if not storage and not redis:
            found.append(Finding("shared storage", self._of_others()))
        return found

    def try_out(self, *, thoroughly: bool = False) -> list[Finding]:
        """Tries in storage what jobs will need; a finding with the problem or with each note."""
        try:
            notes = self._probe.try_out(self.name, thoroughly=thoroughly)
        except Exception as error:
            return [Finding("what jobs do in storage", str(error) or repr(error))]
        return [Finding("what jobs do in storage"), *(Finding("storage", note=n) for n in notes)]

    def report(self) -> None:
        """Renews the report that this process is running; does nothing while Redis is away.

        And its probe, if storage has lost it: others would take that for another volume.
        """
        with contextlib.suppress(RedisError):
            self._redis.zadd(self._key, {self.name: redis_time(self._redis)}, xx=True)
        with contextlib.suppress(Exception):  # storage is away
            if not self._probe.sees(self.name):
                self._probe.write(self.name)

    def leave(self) -> None:
        """Removes the probe of this process, if possible."""
        with contextlib.suppress(Exception):  # other processes remove an old probe
            self._redis.zrem(self._key, self.name)
            self._probe.remove(self.name)

    # -- one part each ------------------------------------------------------------------------

    def _of_redis(self, *, report: bool) -> tuple[float, str]:
        """Seconds by which this clock is ahead of that of Redis, and the problem of Redis."""
        where = where_is(self._redis)
        try:
            before = self._clock()
            now = redis_time(self._redis)
            ahead = _ahead(before, now, self._clock())
            memory, cluster = self._info("memory"), self._info("cluster")
            # Also without anything to report: Redis must accept writes.
            self._redis.zadd(self._key, {self.name: now}, xx=not report)
        except RedisError as error:
            return 0.0, explain_redis_error(error, where)
        if cluster.get("cluster_enabled"):
            return ahead, _CLUSTER.format(where=where)
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and memory.get("maxmemory", 0):
            return ahead, (
                f"Redis at {where} may evict records (maxmemory-policy {policy}): "
                "set it to noeviction"
            )
        return ahead, ""

    def _info(self, section: str) -> dict[str, Any]:
        """What Redis says of itself; nothing if its user may not ask."""
        try:
            return dict(self._redis.info(section))
        except NoPermissionError:
            return {}

    def _of_clock(self, ahead: float, whose: str) -> str:
        """The problem of a clock; leases and signs of life are compared across clocks."""
        if abs(ahead) <= max(5.0, self._settings.lease_seconds):
            return ""
        return (
            f"the clock of this machine is {abs(ahead):.0f} s "
            f"{'ahead of' if ahead > 0 else 'behind'} {whose}: let both follow a time server (NTP)"
        )

    def _of_storage(self) -> tuple[float, str]:
        """Seconds by which this clock is ahead of that of storage, and the problem of storage."""
        before = self._clock()
        try:
            modified = self._probe.write(self.name)
        except Exception as error:
            return 0.0, str(error) or repr(error)
        return _ahead(before, modified, self._clock()), ""

    def _of_others(self) -> str:
        """The problem of processes that write to different volumes under one URL."""
        try:
            now = redis_time(self._redis)
            for gone in self._redis.zrangebyscore(self._key, "-inf", now - 5 * _FRESH_SECONDS):
                self._probe.remove(gone)
                self._redis.zrem(self._key, gone)
            there = self._redis.zrevrangebyscore(self._key, "+inf", now - _FRESH_SECONDS)
            others = [name for name in there if name != self.name][:_OTHERS]
            hidden = [name for name in others if not self._probe.sees(name)]
        except Exception as error:
            return str(error) or repr(error)
        if not hidden:
            return ""
        return (
            f"process {hidden[0]} writes to {self._settings.storage_url} too, but its files are "
            "not visible here: the two processes use different volumes. All must mount the same "
            "one: on Kubernetes a claim with ReadWriteMany, else one machine, or S3"
        )


def _ahead(before: float, other: float, after: float) -> float:
    """Seconds by which a clock is ahead of another one, read between `before` and `after`."""
    return before - other if other < before else min(0.0, after - other)


def explain_redis_error(error: RedisError, where: str) -> str:
    """What is wrong with a Redis, and what to change."""
    text = str(error)
    words = next(
        (
            words
            for kinds, beginnings, words in _EXPLAINED
            if isinstance(error, kinds) or any(one in text for one in beginnings)
        ),
        "Redis at {where} refuses: {text}"
        if isinstance(error, ResponseError)
        else "Redis cannot be reached at {where}: start it, or change SPECTRAIN_REDIS_URL ({text})",
    )
    return words.format(where=where, text=text)


class StartupChecks:
    """The checks at the start of a process, repeated in a thread until all pass.

    `verdict` holds the problems, and each change of it calls `on_change`. After all checks passed
    once they are not repeated: a later failure is an outage, which each part of the process waits
    out by itself.
    """

    _RETRY_SECONDS, _REPORT_SECONDS = 5.0, 20.0

    def __init__(self, checks: Checks, on_change: Callable[[], None]) -> None:
        self._checks = checks
        self._on_change = on_change
        self._stop = threading.Event()
        self._checked = threading.Event()
        self.verdict = "its storage has not answered yet"

    def start(self, patience: float = 2.0) -> None:
        """Starts the checks; waits for the first verdict, at most `patience` seconds."""
        threading.Thread(target=self._run, name="checks", daemon=True).start()
        self._checked.wait(patience)

    def stop(self) -> None:
        """Stops the checks and removes the probe."""
        self._stop.set()
        self._checks.leave()

    def _run(self) -> None:
        tried = failed = False
        while not self._stop.is_set():
            problem = self._check()
            if not problem and failed:
                problem = self._try_out()
                tried = not problem
            self._say(problem)
            # What jobs need is tried after that: it takes longer, and hardly ever fails.
            if not problem and not tried and (problem := self._try_out()):
                failed = True
                self._say(problem)
            if not problem:
                break
            self._stop.wait(self._RETRY_SECONDS)
        while not self._stop.wait(self._REPORT_SECONDS):
            self._checks.report()

    def _say(self, problem: str) -> None:
        before, self.verdict = self.verdict, problem
        self._checked.set()
        if problem != before:
            self._on_change()

    def _try_out(self) -> str:
        return "; ".join(found.problem for found in self._checks.try_out() if found.problem)

    def _check(self) -> str:
        try:
            return "; ".join(found.problem for found in self._checks.run() if found.problem)
        except Exception as error:  # the next round checks again
            log.exception("the startup checks failed")
            return f"its checks failed: {error!r}"
