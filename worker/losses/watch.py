"""Finds the notes of attempts that nobody on this machine runs any more, and ends those attempts.

The witness of a killed worker does so at once. This finds what the witness could not end: it died
with its worker (a container, a machine that was switched off), or Redis was away.
"""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path

from redis.exceptions import RedisError

from jobs.messages import Messenger
from jobs.store.jobs import JobStore
from worker.losses.note import Note, abandoned, notes, remove
from worker.losses.report import announce, end_attempt

log = logging.getLogger(__name__)

# A lease is renewed five times in its duration: one that is not renewed in this share of it, twice
# as long, has nobody who renews it.
_UNRENEWED = 2 / 5


class LossWatch:
    """Looks for abandoned notes when it starts and then regularly, in a thread of its own."""

    def __init__(self, scratch_dir: Path, store: JobStore, messenger: Messenger) -> None:
        self._scratch_dir = scratch_dir
        self._store = store
        self._messenger = messenger
        self._stopping = threading.Event()

    def start(self) -> None:
        """Starts to look for abandoned notes."""
        threading.Thread(target=self._run, name="loss-watch", daemon=True).start()

    def stop(self) -> None:
        """Stops looking."""
        self._stopping.set()

    def run_once(self) -> list[str]:
        """Ends the attempts of all abandoned notes; returns the ids of their jobs."""
        found = [job for path in notes(self._scratch_dir) if (job := self._check(path))]
        if found:
            announce(self._store, self._messenger)
        return found

    def _check(self, path: Path) -> str | None:
        with abandoned(path) as note:
            if note is None or not self._is_dead(note):
                return None
            if note.same_boot:
                message = f"worker {note.worker} was killed, or crashed"
            else:
                message = f"the machine of worker {note.worker} was restarted"
            job = end_attempt(self._store, note, message)
            remove(path)
            if job is None:
                return None
            log.warning("job %s: %s; it is %s now", job.id, job.message or message, job.state)
            return job.id

    def _is_dead(self, note: Note) -> bool:
        """Whether the attempt's processes are dead, given that no process here holds its note.

        A lock says so only within one run of a kernel. The note of an earlier one may be of this
        machine, or it may have come with a copied disk: then somebody renews the lease.
        """
        if note.same_boot:
            return True
        if note.host != socket.gethostname():
            return False
        before = self._store.queues.lease_expiry(note.job)
        self._stopping.wait(self._store.lease_seconds * _UNRENEWED)
        return not self._stopping.is_set() and before == self._store.queues.lease_expiry(note.job)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.run_once()
            except RedisError as error:
                log.info("cannot look for lost attempts: %s", error)
            except Exception:  # no error may end the watch
                log.exception("cannot look for lost attempts")
            self._stopping.wait(self._store.lease_seconds / 5)
