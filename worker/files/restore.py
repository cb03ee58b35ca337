"""Fills the run directory of an attempt with what earlier attempts published."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from monitoring.checkpoints import commit
from monitoring.checkpoints.adoption import link_target
from monitoring.checkpoints.commit import CheckpointCorrupt, CommitRecord
from monitoring.checkpoints.torch_file import looks_whole
from monitoring.metrics.logger import MetricsLogger, latest_step
from monitoring.paths import RunPaths, commit_record, step_of
from monitoring.storage.base import Storage
from worker.files.adoptions import judge
from worker.files.scratch import Restored, Version

log = logging.getLogger(__name__)


class _Unwanted(Exception):  # noqa: N818
    """The attempt has been asked to stop."""


def restore(
    storage: Storage,
    job_id: str,
    run: RunPaths,
    *,
    keeps_records: bool = False,
    wanted: Callable[[], bool] = lambda: True,
) -> Restored | None:
    """Fills a run directory with what earlier attempts published; None once it is not `wanted`.

    Every byte of the checkpoint to resume from is verified, during the download if it comes over a
    network. A damaged one is renamed to `.corrupt`, and the one before it is used. A file without a
    record, written by another program, is a checkpoint if it is whole, and never renamed. Older
    checkpoints stay in a store from which they would have to be downloaded, except the targets of
    links. The output log stays there too, since it only grows. `keeps_records`: the program is
    known to commit its checkpoints. Raises `OSError` and `StorageError`.
    """

    def check() -> None:
        if not wanted():
            raise _Unwanted

    try:
        return _Restoring(storage, job_id, run, check).all(keeps_records=keeps_records)
    except _Unwanted:
        return None


def rewind(run: RunPaths, restored: Restored, attempt: int) -> None:
    """Moves the rows beyond the checkpoint aside, so that any program leaves a single curve.

    A program with checkpoints in a format of its own must do so itself. Raises `OSError`.
    """
    if restored.checkpoint is None or restored.last_step is None:
        return
    if restored.last_step > restored.checkpoint.step:
        MetricsLogger(run.logs).rewind(restored.checkpoint.step, attempt=attempt)


class _Restoring:
    """The restore of one run; `check` ends it by raising."""

    def __init__(
        self, storage: Storage, job_id: str, run: RunPaths, check: Callable[[], None]
    ) -> None:
        self._storage = storage
        self._run = run
        self._check = check
        self._stored = {run.root / Path(f.key).relative_to(job_id): f for f in storage.list(job_id)}
        self._links = {
            run.root / Path(key).relative_to(job_id): target
            for key, target in storage.links(job_id).items()
        }
        self._files: dict[Path, Version] = {}
        self._adopted: dict[Path, CommitRecord] = {}

    def all(self, *, keeps_records: bool) -> Restored:
        """Fetches what the attempt needs: the small files, then its checkpoint."""
        checkpoints = []
        for path in self._stored:
            if path == self._run.output_log or path.parent == self._run.attempts:
                continue
            if path.parent == self._run.checkpoints and step_of(path) is not None:
                if keeps_records and commit_record(path) not in self._stored:
                    self._drop(path)
                else:
                    checkpoints.append(path)
            elif not (path.name.endswith(".pt.corrupt") and self._is_far(path)):
                self._fetch(path)
        for link, target in self._links.items():
            link.symlink_to(target)
        newest, left = self._fetch_checkpoints(checkpoints)
        last = latest_step(self._run.metrics) if self._run.metrics.is_file() else None
        return Restored(newest, self._files, self._links, left, last, self._adopted)

    def _fetch_checkpoints(
        self, paths: Iterable[Path]
    ) -> tuple[CommitRecord | None, dict[Path, CommitRecord]]:
        """The newest whole checkpoint, and the checkpoints left in storage."""
        records = {path: self._record(path) for path in paths}
        ours = any(record and not record.adopted for record in records.values())
        if not ours:
            self._leave_adoptions(records)
        linked = {
            link.parent / target
            for link, target in self._links.items()
            if link != self._run.latest_checkpoint
        }
        newest: CommitRecord | None = None
        left = {}
        for path in self._newest_first(records):
            record = records[path]
            # `keep` in the newest record says which of the checkpoints left there to remove later.
            if newest and newest.keep and record and path not in linked and self._is_far(path):
                left[path] = record
                self._leave(path)
                continue
            checksum = self._fetch(path, immutable=record is not None and not record.adopted)
            if self._is_foreign(path, record):
                if ours and not looks_whole(path):
                    # A worker was killed between a checkpoint and its record.
                    path.unlink()
                    self._drop(path)
                elif newest is None:
                    newest = judge(path, record, self._stored[path].modified, self._check)
                    self._point_latest(path, newest)
            elif newest is None and record is not None and self._is_whole(path, record, checksum):
                newest = record
                self._point_latest(path, newest)
        return newest, left

    def _newest_first(self, records: Mapping[Path, CommitRecord | None]) -> list[Path]:
        """The checkpoints in the order in which the library would try to load them."""
        target = link_target(self._run.latest_checkpoint)

        def age(path: Path) -> tuple[int, float]:
            record = records[path]
            if record is not None:
                return 1, -record.time
            if commit_record(path) in self._stored:
                return 3, 0.0  # damaged
            return (0, 0.0) if path.name == target else (2, -(step_of(path) or 0))

        return sorted(records, key=age)

    def _is_foreign(self, path: Path, record: CommitRecord | None) -> bool:
        """Whether another program wrote a checkpoint."""
        return record.adopted if record is not None else commit_record(path) not in self._stored

    def _point_latest(self, path: Path, newest: CommitRecord | None) -> None:
        """Points `latest` to the checkpoint to resume from, if there is one."""
        if newest is not None and link_target(self._run.latest_checkpoint) != path.name:
            self._run.latest_checkpoint.unlink(missing_ok=True)
            self._run.latest_checkpoint.symlink_to(path.name)

    def _record(self, path: Path) -> CommitRecord | None:
        """The record of a checkpoint if its size is right; an adopted one's in any case."""
        try:
            record = commit.read(path)
        except (CheckpointCorrupt, FileNotFoundError):
            return None
        return record if record.adopted or record.size == self._stored[path].size else None

    def _leave_adoptions(self, records: Mapping[Path, CommitRecord | None]) -> None:
        """Leaves the records of adopted checkpoints in storage.

        A program that does not use this library might take them for files of its own.
        """
        for path, record in records.items():
            if record is not None:
                self._adopted[path] = record
                self._leave(path)

    def _is_whole(self, path: Path, record: CommitRecord, checksum: str | None) -> bool:
        """Whether a fetched checkpoint matches its record; renamed to `.corrupt` if not."""
        try:
            if checksum is None or not record.checksum.startswith("crc32:"):
                commit.verify(path, self._check)
            elif checksum != record.checksum:
                cause = f"its checksum is {checksum}; its commit record says {record.checksum}"
                raise CheckpointCorrupt(path, cause)
        except CheckpointCorrupt as corrupt:
            aside = commit.set_aside(path).name
            log.warning("%s in storage: %s; kept as %s", path.name, corrupt.cause, aside)
            return False
        return True

    def _fetch(self, path: Path, *, immutable: bool = False) -> str | None:
        """Fetches a file; returns its CRC-32 if storage knows it.

        An `immutable` file may be a hard link to the one in storage. Only what this library
        committed is: another program may rewrite its files in place.
        """
        self._check()
        checksum = self._storage.get(
            self._stored[path].key, path, immutable=immutable, on_block=self._check
        )
        self._files[path] = Version.of(path)
        return checksum

    def _drop(self, path: Path) -> None:
        """Makes the first publication remove a file, absent here, from storage."""
        self._files[path] = Version(0, self._stored[path].size, 0)

    def _leave(self, path: Path) -> None:
        """Leaves a checkpoint and its record in storage: a record alone would mislead readers."""
        commit_record(path).unlink()
        del self._files[commit_record(path)]

    def _is_far(self, path: Path) -> bool:
        return self._storage.local_path(self._stored[path].key) is None
