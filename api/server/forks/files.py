"""Puts into the run of a fork what it begins with: links, and copies that the store makes.

The first moment of the new run names a checkpoint of the source, its rows of metrics up to there,
and the files of the program. What tells of the source alone stays behind: its receipts, its log,
its configuration, its results, its plots and its other checkpoints. Afterwards the two runs have
nothing in common: a link is made only to what nobody writes to again.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Self

from api.server.runs.metric_pages import lines_of
from jobs.errors import SpectrainError
from monitoring.checkpoints.commit import CheckpointCorrupt, CommitRecord, decode
from monitoring.files import ARCHIVE_HEAD, begins_archive
from monitoring.metrics import rows
from monitoring.paths import RunPaths, step_of
from monitoring.storage.base import CONTENTS_FOLDER, Storage, StoredFile
from monitoring.storage.moments import Entry, Moment, Moments, encode
from monitoring.storage.run_files import RunFiles, is_services

_PATHS = RunPaths(Path())
_READ = _PATHS.read_metrics.as_posix()
_CURVES = {_PATHS.metrics.as_posix(), _READ}
_LATEST = _PATHS.latest_checkpoint.as_posix()
_OF_THE_SOURCE = {
    path.as_posix()
    for path in (
        _PATHS.config, _PATHS.results, _PATHS.job, _PATHS.git, _PATHS.git_patch,
        _PATHS.superseded_metrics, _PATHS.resumes, _PATHS.training_log,
    )
}  # fmt: skip
_TRIES = 5
_MOST_NAMED = 20


class ForkRefusedError(SpectrainError):
    """A job cannot begin from that run; the message says why."""


@dataclass(frozen=True)
class Beginning:
    """What a fork begins with: files of the source, and the checkpoint among them, if any."""

    storage: Storage
    source: str
    step: int | None
    checkpoint: str | None
    is_immutable: bool  # the checkpoint
    files: Mapping[str, StoredFile]
    entries: Mapping[str, Entry]

    @classmethod
    def of(cls, storage: Storage, source: str, step: int | None) -> Self:
        """What is there now, for a `step` or, if that is None, for the newest checkpoint.

        Raises `ForkRefusedError`, `OSError` and `StorageError`.
        """
        found = RunFiles(storage, source)
        moment, files = Moments(storage, source).newest(), found.all()
        entries = dict(moment.entries) if moment is not None else _entries_of(found, files)
        records = dict(_committed(storage, files))
        chosen = _chosen(source, records, step)
        kept = {
            path: file
            for path, file in files.items()
            if path == _READ or (not is_services(path) and _belongs(path, chosen, records))
        }
        if not kept:
            raise ForkRefusedError(f"Job {source} has no files yet that a job could begin from.")
        record = records[chosen] if chosen is not None else None
        return cls(
            storage, source, record.step if record else None, chosen,
            record is not None and not record.adopted, kept, _moved(entries, kept, chosen),
        )  # fmt: skip

    def place(self, target: str) -> None:
        """Fills the run `target`, its moment last.

        Raises `FileNotFoundError` if the source has changed meanwhile, `OSError`, `StorageError`.
        """
        links, copies, entries = {}, {}, dict(self.entries)
        for path, file in self.files.items():
            place = f"{target}/{path}"
            if path in _CURVES and self.step is not None:
                size = self._cut(file, place, self.step)
                if path in entries:
                    entries[path] = replace(entries[path], size=size, grows=True)
            elif self._never_changes(path, file):
                links[file.key] = place
            else:
                copies[file.key] = place
        self.storage.keep_all(links)
        self.storage.clone_all(copies)
        if _LATEST in entries:
            self.storage.point(f"{target}/{_LATEST}", entries[_LATEST].target)
        moment = Moment(0, 1, time.time(), {p: _renamed(entry) for p, entry in entries.items()})
        self.storage.append(Moments(self.storage, target).key(moment), 0, encode(moment))

    def is_current(self) -> bool:
        """Whether no file of it has been replaced in the source since."""
        moment = Moments(self.storage, self.source).newest()
        now = moment.entries if moment is not None else {}
        return all(
            now[path].content == self.entries[path].content
            for path in self.files
            if path in now and path in self.entries and self.entries[path].content
        )

    def _never_changes(self, path: str, file: StoredFile) -> bool:
        """Whether a content is never written to: its file is only replaced or removed."""
        if (path == self.checkpoint and self.is_immutable) or f"/{CONTENTS_FOLDER}/" in file.key:
            return True
        entry = self.entries.get(path)
        if entry is None or entry.grows:
            return False
        return begins_archive(self.storage.read(file.key, 0, ARCHIVE_HEAD))

    def _cut(self, file: StoredFile, place: str, step: int) -> int:
        """Stores the rows up to a step; their size, bytes."""
        size = 0
        with tempfile.NamedTemporaryFile() as kept:
            for _, line in lines_of(self.storage, file.key, 0):
                if _step(line) <= step:
                    size += kept.write(line + b"\n")
            kept.flush()
            self.storage.put(place, Path(kept.name))
        return size


def begin(storage: Storage, source: str, target: str, step: int | None) -> int | None:
    """Fills the run of a fork from that of its source; the step of the checkpoint, None for none.

    Raises `ForkRefusedError`, `OSError` and `StorageError`.
    """
    for _ in range(_TRIES):
        beginning = Beginning.of(storage, source, step)
        try:
            beginning.place(target)
            if beginning.is_current():
                return beginning.step
        except FileNotFoundError:  # the source removes old checkpoints, and replaces files
            pass
        storage.delete_all([file.key for file in storage.list(target)])
    raise ForkRefusedError(
        f"The run of job {source} changes faster than it can be copied: pause the job first."
    )


def _chosen(source: str, records: Mapping[str, CommitRecord], step: int | None) -> str | None:
    """The path of the checkpoint of a step, or of the newest; None if there is none."""
    if step is None:
        return max(records, key=lambda path: records[path].time, default=None)
    chosen = next((path for path, record in records.items() if record.step == step), None)
    if chosen is not None:
        return chosen
    if not records:
        raise ForkRefusedError(
            f"Job {source} has no checkpoint of the monitoring library: leave `step` out, to begin "
            "with the files of its run as they are now."
        )
    steps = sorted(record.step for record in records.values())
    named = ", ".join(map(str, steps[-_MOST_NAMED:]))
    more = f", and {len(steps) - _MOST_NAMED} earlier ones" if len(steps) > _MOST_NAMED else ""
    raise ForkRefusedError(
        f"Job {source} has no checkpoint of step {step}; it has those of {named}{more}."
    )


def _committed(
    storage: Storage, files: Mapping[str, StoredFile]
) -> Iterator[tuple[str, CommitRecord]]:
    """The whole checkpoints of the monitoring library, and those that it has adopted."""
    for path, file in files.items():
        record = files.get(f"{path}.json")
        if not _is_checkpoint(path) or record is None:
            continue
        try:
            found = decode(storage.read(record.key), Path(record.key))
        except (CheckpointCorrupt, FileNotFoundError):
            continue
        if found.adopted or found.size == file.size:
            yield path, found


def _is_checkpoint(path: str) -> bool:
    parent = PurePosixPath(path).parent.as_posix()
    return parent == _PATHS.checkpoints.as_posix() and step_of(Path(path)) is not None


def _belongs(path: str, chosen: str | None, records: Mapping[str, CommitRecord]) -> bool:
    """Whether a file of the source belongs to the fork as well."""
    if path in _OF_THE_SOURCE or path.endswith(".corrupt"):
        return False
    if PurePosixPath(path).parent.as_posix() == _PATHS.visualizations.as_posix():
        return not path.endswith(".png")
    checkpoint = path.removesuffix(".json")
    if chosen is None or not _is_checkpoint(checkpoint):
        return True
    return checkpoint == chosen


def _moved(
    entries: Mapping[str, Entry], files: Mapping[str, StoredFile], chosen: str | None
) -> dict[str, Entry]:
    """The entries of a moment that belong to the fork."""
    moved = {}
    for path, entry in entries.items():
        if entry.kind == "file" and path in files:
            moved[path] = replace(entry, size=files[path].size)
        elif entry.kind == "link" and chosen is not None and path.startswith("checkpoints/"):
            if path == _LATEST:
                moved[path] = Entry("link", target=PurePosixPath(chosen).name)
        elif entry.kind != "file":
            moved[path] = entry
    return moved


def _entries_of(found: RunFiles, files: Mapping[str, StoredFile]) -> dict[str, Entry]:
    """The entries of a run that has no moment yet."""
    entries = {
        path: Entry("file", file.size, 0o644, int(file.modified * 1e9), content="0")
        for path, file in files.items()
        if not is_services(path)
    }
    return entries | {path: Entry("link", target=to) for path, to in found.links().items()}


def _renamed(entry: Entry) -> Entry:
    """An entry whose content has a name of this run."""
    return replace(entry, content=f"0-{secrets.token_hex(8)}") if entry.content else entry


def _step(line: bytes) -> float:
    """The step of a row; that of another line is before all."""
    try:
        return int(rows.decode(line)["step"])
    except ValueError:
        return float("-inf")
