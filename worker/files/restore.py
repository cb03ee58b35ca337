"""Fills the run directory of an attempt with what earlier attempts published."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from monitoring.checkpoints import commit
from monitoring.checkpoints.adoption import link_target
from monitoring.checkpoints.commit import CheckpointCorrupt, CommitRecord
from monitoring.checkpoints.torch_file import looks_whole
from monitoring.metrics.logger import MetricsLogger, latest_step
from monitoring.paths import RunPaths, commit_record, step_of
from monitoring.storage.base import Storage, StoredFile
from monitoring.storage.moments import Entry, Moment, Moments, files_now
from monitoring.storage.run_files import is_services
from worker.files.given import REMOVED, Given
from worker.files.look import Look, Seen
from worker.files.mirror.adoptions import judge
from worker.files.scratch import DIRECTORIES, Restored, Version

log = logging.getLogger(__name__)

_FETCHES = 16


# Given the entries that will be restored, whether they are those of a moment, and what to call
# often: it ends the restore by raising.
Place = Callable[[Mapping[str, Entry], bool, Callable[[], None]], Given]


def _nothing(*_: object) -> Given:
    return Given()


class _Unwanted(Exception):  # noqa: N818
    """The attempt has been asked to stop."""


def restore(
    storage: Storage,
    job_id: str,
    run: RunPaths,
    *,
    keeps_records: bool = False,
    before: str | None = None,
    wanted: Callable[[], bool] = lambda: True,
    place: Place = _nothing,
    may_link: bool = True,
) -> Restored | None:
    """Fills a run directory with what earlier attempts published; None once it is not `wanted`.

    Every byte of the checkpoint to resume from is verified, during the download if it comes over a
    network. A damaged one is renamed to `.corrupt`, and the one before it is used. A file without a
    record, written by another program, is a checkpoint if it is whole, and never renamed. Older
    checkpoints stay in a store from which they would have to be downloaded, except the targets of
    links. The output log stays there too, since it only grows. `keeps_records`: the program is
    known to commit its checkpoints. `before`: restores the newest moment older than the one of this
    name, if there is one. `place` puts the code of the job there first, given what will be restored
    over it, and whether that is a moment. `may_link`: files here may be links to those in storage.
    Raises `OSError` and `StorageError`.
    """

    def check() -> None:
        if not wanted():
            raise _Unwanted

    try:
        restoring = _Restoring(storage, job_id, run, check, before, place, may_link)
        return restoring.all(keeps_records=keeps_records)
    except _Unwanted:
        return None


def _chosen(moments: Sequence[Moment], before: str | None) -> Moment | None:
    """The newest moment older than `before`, else the newest."""
    older = [moment for moment in moments if before is None or moment.name < before]
    return max(older or moments, key=lambda moment: moment.name, default=None)


def _later_checkpoints(
    stored: Mapping[str, StoredFile], at_path: Mapping[str, StoredFile]
) -> dict[str, StoredFile]:
    """Checkpoints with their records that a killed worker stored after its last moment.

    A record says by itself whether its checkpoint is whole, and its metrics were stored before it.
    """
    newest = max((step_of(Path(path)) or 0 for path in stored), default=0)
    return {
        name: at_path[name]
        for path in at_path
        if (step_of(Path(path)) or 0) > newest and f"{path}.json" in at_path
        for name in (path, f"{path}.json")
    }


def _entries_of(
    files: Mapping[str, StoredFile], links: Mapping[str, str], own: Set[str]
) -> dict[str, Entry]:
    """The entries of a run without moments."""
    entries = {
        path: Entry("file", file.size, 0o644, int(file.modified * 1e9),
                    content=f"0-{secrets.token_hex(8)}")
        for path, file in files.items()
        if path not in own
    }  # fmt: skip
    return entries | {path: Entry("link", target=target) for path, target in links.items()}


def rewind(run: RunPaths, restored: Restored, attempt: int) -> None:
    """Moves the rows beyond the checkpoint aside, so that any program leaves a single curve.

    A program with checkpoints in a format of its own must do so itself. Raises `OSError`.
    """
    if restored.checkpoint is None or restored.last_step is None:
        return
    if restored.last_step > restored.checkpoint.step and all(
        _is_own(path) or not os.path.lexists(path)
        for path in (run.metrics, run.superseded_metrics, run.resumes)
    ):
        MetricsLogger(run.logs).rewind(restored.checkpoint.step, attempt=attempt)


def _is_own(path: Path) -> bool:
    """Whether there is a file: a link may lead to one that is not the run's."""
    return path.is_file() and not path.is_symlink()


class _Restoring:
    """The restore of one run; `check` ends it by raising."""

    def __init__(
        self,
        storage: Storage,
        job_id: str,
        run: RunPaths,
        check: Callable[[], None],
        before: str | None,
        place: Place,
        may_link: bool,
    ) -> None:
        self._place = place
        self._may_link = may_link
        self._storage = storage
        self._run = run
        self._check = check
        moments = Moments(storage, job_id)
        self._moments = moments.all()
        self._moment = _chosen(self._moments, before)
        self._kept = frozenset(moments.contents())
        at_path = {file.key.removeprefix(f"{job_id}/"): file for file in storage.list(job_id)}
        self._points = {
            key.removeprefix(f"{job_id}/"): target for key, target in storage.links(job_id).items()
        }
        own = set(filter(is_services, at_path))
        if self._moment is None:
            # A run from before moments, or one that was stopped before its first.
            self._entries = _entries_of(at_path, self._points, own)
            stored = {path: file for path, file in at_path.items() if path not in own}
        else:
            entries = self._moment.entries
            self._entries = {p: entry for p, entry in entries.items() if not is_services(p)}
            found = files_now(storage, job_id, self._moment)
            stored = {p: file for p, file in found.items() if p in self._entries}
            for path in [path for path in stored if self._is_gone(path, at_path)]:
                if not path.startswith("checkpoints/"):  # where this library removes old ones
                    log.warning("%s is missing in the storage of %s", path, job_id)
                del stored[path], self._entries[path]
            later = _later_checkpoints(stored, at_path) if before is None else {}
            self._entries |= _entries_of(later, {}, set())
            stored |= later
        # An earlier version has saved what a program put in their places.
        for path in DIRECTORIES & self._entries.keys():
            if self._entries[path].kind != "directory":
                del self._entries[path]
                stored.pop(path, None)
        # The records of adopted checkpoints are in storage only.
        adoptions = {
            path: file
            for path, file in at_path.items()
            if path not in stored and path.removesuffix(".json") in stored
            and step_of(run.root / path.removesuffix(".json")) is not None
        }  # fmt: skip
        self._strays = frozenset(at_path.keys() - stored.keys() - own - adoptions.keys())
        self._stored = {run.root / path: file for path, file in (stored | adoptions).items()}
        self._links = {
            run.root / path: entry.target
            for path, entry in self._entries.items()
            if entry.kind == "link"
        }
        self._files: dict[Path, Version] = {}
        self._adopted: dict[Path, CommitRecord] = {}
        self._unfetched: set[str] = set()

    def all(self, *, keeps_records: bool) -> Restored:
        """Fetches what the attempt needs: the small files, then its checkpoint."""
        given = self._place(self._entries, self._moment is not None, self._check)
        for name, entry in self._entries.items():
            if entry.kind == "directory":
                (self._run.root / name).mkdir(parents=True, exist_ok=True)
        checkpoints, others = [], []
        for path in self._stored:
            if path.parent == self._run.checkpoints and step_of(path) is not None:
                if keeps_records and commit_record(path) not in self._stored:
                    self._drop(path)
                else:
                    checkpoints.append(path)
            elif path.name.endswith(".pt.corrupt") and self._is_far(path):
                self._unfetched.add(path.relative_to(self._run.root).as_posix())
            else:
                others.append(path)
        with ThreadPoolExecutor(_FETCHES) as pool:
            list(pool.map(self._fetch, others))
        for link, target in self._links.items():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        newest, left = self._fetch_checkpoints(checkpoints)
        last = latest_step(self._run.metrics) if _is_own(self._run.metrics) else None
        self._date_folders()
        return Restored(
            newest, self._files, self._points, left, last, self._adopted, self._moment,
            self._moments, self._entries, self._seen(), self._kept,
            frozenset(self._unfetched), self._strays, given,
        )  # fmt: skip

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
        stored = self._stored[path]
        immutable = immutable and self._may_link
        checksum = self._storage.get(stored.key, path, immutable=immutable, on_block=self._check)
        entry = self._entries.get(path.relative_to(self._run.root).as_posix())
        if entry is not None and self._moment is not None:
            if not entry.grows and path.stat().st_size > entry.size:
                os.truncate(path, entry.size)
            if not immutable:
                path.chmod(entry.mode)
                os.utime(path, ns=(entry.modified_ns, entry.modified_ns))
        self._files[path] = Version.of(path)
        return checksum

    def _date_folders(self) -> None:
        """Gives the folders their modes and times, after all in them is made."""
        if self._moment is None:
            return
        for path, entry in sorted(self._entries.items(), reverse=True):
            if entry.kind == "directory":
                with contextlib.suppress(OSError):
                    folder = self._run.root / path
                    folder.chmod(entry.mode)
                    os.utime(folder, ns=(entry.modified_ns, entry.modified_ns))

    def _seen(self) -> Look:
        """What is here of the moment."""
        found = {p: REMOVED for p, entry in self._entries.items() if entry.kind == "removed"}
        for path in self._entries:
            with contextlib.suppress(OSError):
                seen = Seen.of(self._run.root / path)
                if seen is not None:
                    found[path] = seen
        return found

    def _is_gone(self, path: str, at_path: Mapping[str, object]) -> bool:
        """Whether the content of a file is in storage no more."""
        return path not in at_path and self._entries[path].content not in self._kept

    def _drop(self, path: Path) -> None:
        """Makes the first publication remove a file, absent here, from storage."""
        self._files[path] = Version(0, self._stored[path].size, 0)

    def _leave(self, path: Path) -> None:
        """Leaves a checkpoint and its record in storage: a record alone would mislead readers."""
        commit_record(path).unlink()
        del self._files[commit_record(path)]

    def _is_far(self, path: Path) -> bool:
        return self._storage.local_path(self._stored[path].key) is None
