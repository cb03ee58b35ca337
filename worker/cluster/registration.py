"""Registers a worker, renews its entry, and learns whether the worker may take a job."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jobs.errors import STORE_AWAY
from jobs.model.workers import Gpu, WorkerState
from jobs.store.registry import WorkerRegistry

log = logging.getLogger(__name__)

_LEAVE_SECONDS = 3.0


@dataclass(frozen=True)
class Identity:
    """The identity of a worker; `name` is unique to the process."""

    name: str
    pool: str
    host: str
    gpus: tuple[str, ...] = ()


class Registration:
    """Renews the worker's entry in a thread of its own, through outages of Redis.

    `health` returns why the worker must not run a job, '' if it may; `leaving` returns why it
    shuts down, '' if it does not; `gpus` returns what its GPUs do. A renewal of the running job's
    lease, the last one at `renewed_at` (time.monotonic), renews the entry too.
    """

    def __init__(
        self,
        registry: WorkerRegistry,
        identity: Identity,
        *,
        seconds: float,
        health: Callable[[], str],
        leaving: Callable[[], str],
        gpus: Callable[[], Sequence[Gpu]] = tuple,
        renewed_at: Callable[[], float] = lambda: -math.inf,
    ) -> None:
        self.identity = identity
        self._registry = registry
        self._seconds = seconds
        self._health = health
        self._leaving = leaving
        self._gpus = gpus
        self._renewed_at = renewed_at
        self._last: tuple[float, str, str] = (-math.inf, "", "")  # renewal: time, health, leaving
        self._drained = False
        self._logged_health = ""
        self._allowed = threading.Event()
        self._allowed.set()
        self._due = threading.Event()
        self._stopping = False
        self._outage_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="registration", daemon=True)

    def start(self) -> None:
        """Registers the worker and starts to renew its entry."""
        if self._health() or self._leaving():
            self._allowed.clear()
        self._thread.start()

    def stop(self) -> None:
        """Removes the worker from the registry."""
        self._stopping = True
        self._due.set()
        # If Redis is unavailable, the entry expires by itself.
        if self._thread.ident is not None:
            self._thread.join(_LEAVE_SECONDS)

    def trigger(self) -> None:
        """Renews the entry at once, in its thread; safe to call from a signal handler."""
        self._due.set()

    @property
    def may_take_jobs(self) -> bool:
        """Whether the worker may take a job, by the last answer of the registry."""
        return self._allowed.is_set()

    def refused(self) -> None:
        """Records that a claim was refused: `wait` then waits for the registry's next answer."""
        self._allowed.clear()
        self._due.set()

    def wait(self, seconds: float) -> None:
        """Returns when the worker may take jobs again, or after `seconds`."""
        self._allowed.wait(seconds)

    def renew(self, *, force: bool = True) -> None:
        """Renews the entry once; without `force` only if no renewal of a lease keeps it.

        An outage is logged once when it begins and once when it ends.
        """
        health = self._health()
        if health:
            self._allowed.clear()
        if health != self._logged_health:
            log.warning("worker %s: %s", self.identity.name, health or "healthy again")
            self._logged_health = health
        leaving = self._leaving()
        if not force and self._is_kept(health, leaving):
            return
        try:
            state = self._registry.renew(
                self.identity.name,
                pool=self.identity.pool,
                host=self.identity.host,
                gpus=self.identity.gpus,
                gpu_states=self._gpus(),
                unhealthy=health,
                leaving=leaving,
                drained=self._drained,
            )
        except STORE_AWAY as error:
            if self._outage_since is None:
                self._outage_since = time.monotonic()
                log.warning("cannot reach the worker registry: %s", error)
            return
        except Exception:  # no error may end the job
            log.exception("cannot register worker %s", self.identity.name)
            return
        if self._outage_since is not None:
            outage = time.monotonic() - self._outage_since
            log.info("registered again after %.1f s", outage)
            self._outage_since = None
        self._last = (time.monotonic(), health, leaving)
        self._note(state)

    def _is_kept(self, health: str, leaving: str) -> bool:
        """Whether renewals of the lease keep the entry, and its content is current."""
        now, (at, *sent) = time.monotonic(), self._last
        return (
            sent == [health, leaving]
            and now - self._renewed_at() < 1.5 * self._seconds
            and now - at < 5 * self._seconds
        )

    def _note(self, state: WorkerState) -> None:
        if state.takes_jobs:
            if self._drained:
                log.info("worker %s takes jobs again", self.identity.name)
            self._drained = False
            self._allowed.set()
            return
        if state is WorkerState.DRAINING and not self._drained and not self._leaving():
            log.info("worker %s is drained: it takes no further jobs", self.identity.name)
            self._drained = True
        self._allowed.clear()

    def _run(self) -> None:
        force = True
        while not self._stopping:
            self.renew(force=force)
            force = self._due.wait(self._seconds)
            self._due.clear()
        try:
            self._registry.leave(self.identity.name)
        except STORE_AWAY as error:
            log.info("worker %s stays in the registry until its entry expires: %s",
                     self.identity.name, error)  # fmt: skip
