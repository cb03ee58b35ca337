"""Decides which files of a run in storage are unneeded; a pure function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.model.record import Job
from monitoring.paths import RunPaths, commit_record, step_of
from monitoring.storage.base import StoredFile


@dataclass(frozen=True)
class Stored:
    """The content of a run in storage."""

    run: str
    files: Sequence[StoredFile]
    leftovers: Sequence[StoredFile] = ()  # temporary files of writers that were killed
    links: Mapping[str, str] = field(default_factory=dict)
    committed_at: Mapping[str, float] = field(default_factory=dict)  # by key of the checkpoint
    forgotten: bool = False  # the backup of the job's record says that the job was deleted
    unnamed: Sequence[StoredFile] = ()  # moments but the newest, and contents that only they name
    rebuildable: bool = True  # `reindex` can rebuild the job's record from the run

    @property
    def changed_at(self) -> float:
        """When a file of the run last changed, in seconds since the epoch."""
        return max((file.modified for file in (*self.files, *self.leftovers)), default=0.0)


@dataclass(frozen=True)
class Garbage:
    """Files that may be removed, and why; `files` empty: the whole run."""

    run: str
    why: str
    bytes: int
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unclear:
    """A run without a record that was not deleted: it is kept."""

    run: str
    why: str


def garbage(stored: Stored, job: Job | None, before: float) -> list[Garbage | Unclear]:
    """The files of a run that may be removed: those last changed before `before` (since the epoch).

    `job` is its record in Redis. Redis may have lost a missing one, so a run without a record is
    removed only if its job was deleted, or if no record can be rebuilt and there is no checkpoint.
    """
    if job is None:
        return _orphan(stored, before)
    if not job.state.is_final:
        return []  # its worker, or the next attempt, cleans up
    found = [
        _garbage(stored.run, "left by a killed writer", _old(stored.leftovers, before)),
        _garbage(stored.run, "of an older moment", _old(stored.unnamed, before)),
        _garbage(stored.run, "damaged, set aside", _old(_corrupt(stored), before)),
        _garbage(stored.run, "incomplete checkpoint", _old(_incomplete(stored, job), before)),
        _garbage(stored.run, "beyond keep_last", _old(_surplus(stored, job), before)),
    ]
    return [one for one in found if one is not None]


def _orphan(stored: Stored, before: float) -> list[Garbage | Unclear]:
    if stored.rebuildable and not stored.forgotten:
        return [
            Unclear(
                stored.run, "no record in Redis, but the job was not deleted: run reindex first"
            )
        ]
    if any(step_of(Path(file.key)) is not None for file in stored.files) and not stored.forgotten:
        return [Unclear(stored.run, "origin unknown, and it holds checkpoints")]
    if stored.changed_at >= before:
        return []
    files = (*stored.files, *stored.leftovers, *stored.unnamed)
    why = "its job was deleted" if stored.forgotten else "origin unknown"
    return [Garbage(stored.run, why, sum(file.size for file in files))]


def _corrupt(stored: Stored) -> list[StoredFile]:
    folder = RunPaths(Path(stored.run)).checkpoints
    return [
        file
        for file in stored.files
        if Path(file.key).parent == folder and file.key.endswith(".corrupt")
    ]


def _incomplete(stored: Stored, job: Job) -> list[StoredFile]:
    """Checkpoints of the built-in workload that have no commit record.

    Those of another program stay: without a record, a complete file is a checkpoint.
    """
    if job.spec.train is None:
        return []
    keys = {file.key for file in stored.files}
    checkpoints = [file for file in stored.files if step_of(Path(file.key)) is not None]
    return [file for file in checkpoints if _record(file.key) not in keys]


def _surplus(stored: Stored, job: Job) -> list[StoredFile]:
    """Committed checkpoints beyond those that the built-in workload keeps, and their records."""
    if job.spec.train is None:
        return []  # keep_last does not apply to another program
    newest = sorted(stored.committed_at, key=lambda key: -stored.committed_at[key])
    linked = {str(Path(link).parent / target) for link, target in stored.links.items()}
    surplus = set(newest[job.spec.checkpoint.keep_last :]) - linked
    gone = surplus | {_record(key) for key in surplus}
    # The record first: without it, no reader uses the checkpoint.
    files = [file for file in stored.files if file.key in gone]
    return sorted(files, key=lambda file: not file.key.endswith(".json"))


def _record(key: str) -> str:
    return commit_record(Path(key)).as_posix()


def _old(files: Sequence[StoredFile], before: float) -> list[StoredFile]:
    return [file for file in files if file.modified < before]


def _garbage(run: str, why: str, files: Sequence[StoredFile]) -> Garbage | None:
    if not files:
        return None
    keys = tuple(file.key for file in files)
    return Garbage(run, why, sum(file.size for file in files), keys)
