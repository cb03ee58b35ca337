"""A reaper in a thread of a process, with a connection of its own."""

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
    """Repeats the passes of a reaper, through outages; one process at a time holds the lock.

    The process with the lock also backs up records, in a second thread, so that slow storage does
    not delay the passes.
    """

    def __init__(self, settings: Settings, sign_of_life: SignOfLife, records: Records) -> None:
        self._redis = connect(settings)
        store = open_store(self._redis, settings)
        self._retry_seconds = settings.lease_seconds / 5
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
        """Starts the thread."""
        threading.Thread(target=self.run, name="reaper", daemon=True).start()

    def stop(self) -> None:
        """Stops, so that another process takes over; signal handlers may call it."""
        self._stop.set()

    def run(self) -> None:
        """Runs passes until `stop`."""
        threading.Thread(target=self._back_up, name="backup", daemon=True).start()
        while not self._stop.is_set():
            self._pass()
            busy = min(_PASS_SECONDS, self._retry_seconds)
            self._stop.wait(busy if self._reaper.at_work else self._retry_seconds)
        try:
            self._reaper.release()
        except STORE_AWAY:
            log.info("Redis is unreachable: the lock of the reaper expires by itself")

    def _pass(self) -> None:
        try:
            self._reaper.run_once()
        except STORE_AWAY as error:
            if not self._away:
                log.warning("cannot look for lost jobs while Redis is unreachable: %s", error)
            self._away = True
        except Exception:  # the next pass must still look after the other jobs
            log.exception("a pass of the reaper failed; it is repeated")
        else:
            if self._away:
                log.info("looking for lost jobs again")
            self._away = False

    def _back_up(self) -> None:
        while not self._stop.wait(_PASS_SECONDS):
            try:
                if self._reaper.at_work:
                    self._backup.run_once(self._stop)
            except STORE_AWAY:
                pass  # the passes log it
            except Exception:
                log.exception("cannot back up the records of jobs to storage; it is retried")
