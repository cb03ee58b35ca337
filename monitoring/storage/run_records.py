"""The copies of jobs' records that lie beside their runs."""

from __future__ import annotations

from pathlib import Path

from monitoring.paths import RunPaths
from monitoring.storage.base import RECORD_NAME, Storage


class RunRecords:
    """Puts the copy of a record where its run is; raises what `Storage` does."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def put(self, run: str, data: bytes) -> None:
        """Stores a run's record.

        In its place, without a temporary file beside it: nobody would ever remove that of a
        process that is killed here. Half a record is no record (`jobs.reaper.backup.decode`): it
        is written again, since Redis still has it down as one that is to be.
        """
        self._storage.append(_key(run), 0, data)

    def put_receipt(self, run: str, number: int, data: bytes) -> None:
        """Stores the receipt of an attempt, where it is another one or missing."""
        key = RunPaths(Path(run)).attempt(number).as_posix()
        if self._storage.stat(key) is None or self._storage.read(key) != data:
            self._storage.append(key, 0, data)

    def remove_alone(self, run: str) -> None:
        """Removes a record that lies alone, but for receipts: its run was deleted meanwhile."""
        receipts = f"{RunPaths(Path(run)).attempts.as_posix()}/"
        if all(file.key.startswith(receipts) for file in self._storage.list(run)):
            self._storage.delete_run(run)

    def read(self, run: str) -> bytes | None:
        """A run's record, None where there is none."""
        try:
            return self._storage.read(_key(run))
        except FileNotFoundError:
            return None


def _key(run: str) -> str:
    return f"{run}/{RECORD_NAME}"
