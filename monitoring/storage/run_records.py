"""Copies of jobs' records in storage, one in each run."""

from __future__ import annotations

from pathlib import Path

from monitoring.paths import RunPaths
from monitoring.storage.base import RECORD_NAME, Storage


class RunRecords:
    """Reads and writes the copies of records; raises the errors of `Storage`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def put(self, run: str, data: bytes) -> None:
        """Stores the record of a run, in place.

        A temporary file would be left behind by a process that is killed here. A partial record is
        ignored (`jobs.reaper.backup.decode`) and written again, because Redis still marks it dirty.
        """
        self._storage.append(_key(run), 0, data)

    def put_receipt(self, run: str, number: int, data: bytes) -> None:
        """Stores the receipt of an attempt, unless the same one is stored."""
        key = RunPaths(Path(run)).attempt(number).as_posix()
        if self._storage.stat(key) is None or self._storage.read(key) != data:
            self._storage.append(key, 0, data)

    def remove_alone(self, run: str) -> None:
        """Removes a record with no other files but receipts: its run was deleted meanwhile."""
        receipts = f"{RunPaths(Path(run)).attempts.as_posix()}/"
        if all(file.key.startswith(receipts) for file in self._storage.list(run)):
            self._storage.delete_run(run)

    def read(self, run: str) -> bytes | None:
        """Reads the record of a run; None if there is none."""
        try:
            return self._storage.read(_key(run))
        except FileNotFoundError:
            return None


def _key(run: str) -> str:
    return f"{run}/{RECORD_NAME}"
