"""A reaper for as long as a process lives: in each that wants one, with a connection of its own."""

from __future__ import annotations

import logging
import threading

from jobs.errors import STORE_AWAY
from jobs.messages import Messenger
from jobs.reaper.backup import Backup, Records
from jobs.reaper.reaper import Reaper, SignOfLife
from jobs.settings import Settings, connect
from jobs.store.jobs import open_store

log = logging.getLogger(__name__)

_PASS_SECONDS = 1.0


class Reaping:
    """Passes again and again, through outages; all but one of the processes only look on.

    The one that is at work keeps copies of the records too, beside its passes: no slow store holds
    them up.
    """

    def __init__(self, settings: Settings, sign_of_life: SignOfLife, records: Records) -> None:
        self._redis = connect(settings)
        store = open_store(self._redis, settings)
        self._look_seconds = settings.lease_seconds / 5
        self._reaper = Reaper(
            store,
            Messenger(settings, store),
            sign_of_life,
            eviction_min_seconds=settings.eviction_min_seconds,
        )
        self._backup = Backup(store, records)
        self._stop = threading.Event()
        self._away = False

    def start(self) -> None:
        """Goes on in a thread of its own."""
        threading.Thread(target=self.run, name="reaper", daemon=True).start()

    def stop(self) -> None:
        """Lets another process take over; may be called by a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Passes until `stop`."""
        threading.Thread(target=self._keep, name="records", daemon=True).start()
        while not self._stop.is_set():
            self._pass()
            busy = min(_PASS_SECONDS, self._look_seconds)
            self._stop.wait(busy if self._reaper.at_work else self._look_seconds)
        try:
            self._reaper.release()
        except STORE_AWAY:
            log.info("Redis is away: the lock of the reaper expires by itself")

    def _pass(self) -> None:
        try:
            self._reaper.run_once()
        except STORE_AWAY as error:
            if not self._away:
                log.warning("cannot look for lost jobs while Redis is away: %s", error)
            self._away = True
        except Exception:  # whatever it is, other jobs are still to be looked after
            log.exception("a pass failed; the next one follows")
        else:
            if self._away:
                log.info("looking for lost jobs again")
            self._away = False

    def _keep(self) -> None:
        while not self._stop.wait(_PASS_SECONDS):
            try:
                if self._reaper.at_work:
                    self._backup.run_once(self._stop)
            except STORE_AWAY:
                pass  # the passes say so
            except Exception:
                log.exception("cannot keep the records of jobs in storage; it is tried again")
