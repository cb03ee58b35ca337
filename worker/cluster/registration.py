"""A worker's word to the register: that it is there, on what, and whether it may take a job."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from jobs.errors import STORE_AWAY
from jobs.model.workers import WorkerState
from jobs.store.registry import WorkerRegistry

log = logging.getLogger(__name__)

_LEAVE_SECONDS = 3.0


@dataclass(frozen=True)
class Identity:
    """Who a worker is: `name` is that of one process."""

    name: str
    pool: str
    host: str
    gpus: tuple[str, ...] = ()


class Registration:
    """Renews the worker's entry in a thread of its own, through outages of Redis.

    `health` says why the worker must not run a job, '' while it may; `leaving` why it
    leaves, '' while it stays. A renewal of the running job's lease, the last one at `renewed_at`
    (time.monotonic), renews the entry too.
    """

    def __init__(
        self,
        registry: WorkerRegistry,
        identity: Identity,
        *,
        seconds: float,
        health: Callable[[], str],
        leaving: Callable[[], str],
        renewed_at: Callable[[], float] = lambda: -math.inf,
    ) -> None:
        self.identity = identity
        self._registry = registry
        self._seconds = seconds
        self._health = health
        self._leaving = leaving
        self._renewed_at = renewed_at
        self._attended: tuple[float, str, str] = (-math.inf, "", "")
        self._drained = False
        self._said = ""
        self._allowed = threading.Event()
        self._allowed.set()
        self._hurry = threading.Event()
        self._ended = False
        self._away_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="registration", daemon=True)

    def start(self) -> None:
        """Starts saying it, at once and then again and again."""
        if self._health() or self._leaving():
            self._allowed.clear()
        self._thread.start()

    def stop(self) -> None:
        """Takes the worker out of the worker registry."""
        self._ended = True
        self._hurry.set()
        # Where Redis is away, the entry expires by itself.
        if self._thread.ident is not None:
            self._thread.join(_LEAVE_SECONDS)

    def tell(self) -> None:
        """Has what changed said now; may be called by a signal handler."""
        self._hurry.set()

    @property
    def may_take_jobs(self) -> bool:
        """Whether the worker may take a job, as far as it knows."""
        return self._allowed.is_set()

    def refused(self) -> None:
        """Notes that a claim was refused, so that `wait` waits for the next word of Redis."""
        self._allowed.clear()
        self._hurry.set()

    def wait(self, seconds: float) -> None:
        """Returns when the worker may take jobs again, or after `seconds`."""
        self._allowed.wait(seconds)

    def say(self, *, hurried: bool = True) -> None:
        """Renews the entry once, unless it is kept anyway and nobody `hurried`.

        An outage is told once, and once again when it is over.
        """
        health = self._health()
        if health:
            self._allowed.clear()
        if health != self._said:
            words = health or "it is well again"
            log.warning("worker %s: %s", self.identity.name, words)
            self._said = health
        leaving = self._leaving()
        if not hurried and self._is_kept(health, leaving):
            return
        try:
            state = self._registry.renew(
                self.identity.name,
                pool=self.identity.pool,
                host=self.identity.host,
                gpus=self.identity.gpus,
                unhealthy=health,
                leaving=leaving,
                drained=self._drained,
            )
        except STORE_AWAY as error:
            if self._away_since is None:
                self._away_since = time.monotonic()
                log.warning("cannot reach the worker registry: %s", error)
            return
        except Exception:  # whatever it is, no job must end for it
            log.exception("the worker registry does not take worker %s", self.identity.name)
            return
        if self._away_since is not None:
            away = time.monotonic() - self._away_since
            log.info("back in the worker registry after %.1f s", away)
            self._away_since = None
        self._attended = (time.monotonic(), health, leaving)
        self._note(state)

    def _is_kept(self, health: str, leaving: str) -> bool:
        """Whether the lease's renewals keep the entry, and it says what there is to say."""
        now, (at, *said) = time.monotonic(), self._attended
        return (
            said == [health, leaving]
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
            log.info("worker %s is drained: it takes no further job", self.identity.name)
            self._drained = True
        self._allowed.clear()

    def _run(self) -> None:
        hurried = True
        while not self._ended:
            self.say(hurried=hurried)
            hurried = self._hurry.wait(self._seconds)
            self._hurry.clear()
        try:
            self._registry.leave(self.identity.name)
        except STORE_AWAY as error:
            log.info(
                "the worker registry keeps worker %s for a while: %s", self.identity.name, error
            )
