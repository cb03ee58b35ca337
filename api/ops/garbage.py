"""Decides which files of a run in storage are unneeded; a pure function of what is there."""

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
    forgotten: bool = False  # the copy of the job's record says that a person had it deleted
    rebuildable: bool = True  # there is something of which `reindex` would make a record

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
    """What of a run may be removed: only what was last changed before `before` (since the epoch).

    `job` is its record in Redis. Where that is missing, only a run goes that was left by a
    deletion, or that can never get a record again and holds no checkpoint: Redis may have lost it.
    """
    if job is None:
        return _orphan(stored, before)
    if not job.state.is_final:
        return []  # its next attempt tidies up, as far as it is not the worker's own business now
    found = [
        _garbage(stored.run, "left by a killed writer", _old(stored.leftovers, before)),
        _garbage(stored.run, "damaged, set aside", _old(_corrupt(stored), before)),
        _garbage(stored.run, "half a checkpoint", _old(_half(stored, job), before)),
        _garbage(stored.run, "beyond keep_last", _old(_surplus(stored, job), before)),
    ]
    return [one for one in found if one is not None]


def _orphan(stored: Stored, before: float) -> list[Garbage | Unclear]:
    if stored.rebuildable and not stored.forgotten:
        return [Unclear(stored.run, "no record in Redis, and nobody deleted it: reindex first")]
    if any(step_of(Path(file.key)) is not None for file in stored.files) and not stored.forgotten:
        return [Unclear(stored.run, "nothing says what it is, and it holds checkpoints")]
    if stored.changed_at >= before:
        return []
    files = (*stored.files, *stored.leftovers)
    why = "its job was deleted" if stored.forgotten else "nothing says what it is"
    return [Garbage(stored.run, why, sum(file.size for file in files))]


def _corrupt(stored: Stored) -> list[StoredFile]:
    folder = RunPaths(Path(stored.run)).checkpoints
    return [
        file
        for file in stored.files
        if Path(file.key).parent == folder and file.key.endswith(".corrupt")
    ]


def _half(stored: Stored, job: Job) -> list[StoredFile]:
    """Checkpoints of the built-in workload that have no commit record.

    Those of another program stay: one without a record is a checkpoint if it is whole.
    """
    if job.spec.train is None:
        return []
    keys = {file.key for file in stored.files}
    checkpoints = [file for file in stored.files if step_of(Path(file.key)) is not None]
    return [file for file in checkpoints if _record(file.key) not in keys]


def _surplus(stored: Stored, job: Job) -> list[StoredFile]:
    """Committed checkpoints beyond those that the built-in workload keeps, and their records."""
    if job.spec.train is None:
        return []  # how many another program keeps is its own business
    newest = sorted(stored.committed_at, key=lambda key: -stored.committed_at[key])
    linked = {str(Path(link).parent / target) for link, target in stored.links.items()}
    surplus = set(newest[job.spec.checkpoint.keep_last :]) - linked
    gone = surplus | {_record(key) for key in surplus}
    # The record first: without it no reader takes the rest for a checkpoint.
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
