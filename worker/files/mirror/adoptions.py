"""Makes commit records for checkpoints that a program writes without them.

The records are kept in storage and not in the program's directory: a program might take a record
for one of its own checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from machine.trees import make_folder
from monitoring.checkpoints import adoption, commit
from monitoring.checkpoints.adoption import UnknownFormat
from monitoring.checkpoints.commit import CheckpointCorrupt, CommitRecord
from monitoring.paths import commit_record, step_of
from worker.files.scratch import Restored, Scratch, Version


class Adoptions:
    """Finds the checkpoints without a record that are whole, and makes their records.

    A file counts once it has not changed between two passes: until then its program may be
    writing it.
    """

    def __init__(self, scratch: Scratch, restored: Restored, attempt: int) -> None:
        self._scratch = scratch
        self._attempt = attempt
        self._restored = restored.files
        # By checkpoint: the version that was judged, and its record; None if it is not whole.
        self._judged: dict[Path, tuple[Version, CommitRecord | None]] = {
            path: (restored.files[path], record) for path, record in restored.adopted.items()
        }
        self._seen: dict[Path, Version] = {}
        self._newest = restored.checkpoint.time if restored.checkpoint else 0.0
        self.stored = dict(restored.adopted)  # the records in storage
        newest = restored.checkpoint
        if newest is not None and newest.adopted:
            path = scratch.run.checkpoint(newest.step)
            self._judged[path] = restored.files[path], newest

    def whole(self, paths: Iterable[Path], *, closing: bool) -> list[Path]:
        """The whole ones of these checkpoints; `closing`: the program has ended."""
        found = []
        seen: dict[Path, Version] = {}
        for path in sorted(paths, key=_changed_at):
            try:
                seen[path] = version = Version.of(path)
                if self._judged.get(path, (None, None))[0] != version:
                    # A file that storage had before this attempt keeps its place: it may be old.
                    if version == self._restored.get(path):
                        continue
                    if not closing and self._seen.get(path) != version:
                        continue
                    self._judged[path] = version, self._judge(path)
            except OSError:
                continue  # removed just now, or unreadable, which its publication reports
            if self._judged[path][1] is not None:
                found.append(path)
        self._seen = seen
        return found

    def record(self, checkpoint: Path, published: Version | None) -> CommitRecord | None:
        """The record of a published version that storage lacks; None if it lacks none."""
        version, record = self._judged.get(checkpoint, (None, None))
        return record if version == published and self.stored.get(checkpoint) != record else None

    def write(self, checkpoint: Path, record: CommitRecord) -> Path:
        """Writes a record to a file outside the program's directory; raises `OSError`."""
        target = self._scratch.adoptions / checkpoint.name
        make_folder(target.parent)
        commit.write(target, record)
        return commit_record(target)

    def forget(self, checkpoint: Path) -> None:
        """Forgets a checkpoint that was removed with its record."""
        self._judged.pop(checkpoint, None)
        self.stored.pop(checkpoint, None)

    def _judge(self, path: Path) -> CommitRecord | None:
        step = step_of(path)
        if step is None or commit.has_record(path):  # this library's, about to be committed
            return None
        try:
            judged = adoption.judge(path)
        except (CheckpointCorrupt, UnknownFormat):
            return None
        self._newest = max(time.time(), self._newest + 1e-3)
        return judged.record(step, time=self._newest, attempt=self._attempt)


def judge(path: Path, known: CommitRecord | None, time: float, on_block: Callable[[], None]) -> (
    CommitRecord | None
):  # fmt: skip
    """The record of a restored checkpoint that another program wrote; None if it is not whole.

    `known` is its record in storage, which may be of an earlier version. Raises `OSError`.
    """
    step = step_of(path)
    assert step is not None  # noqa: S101
    try:
        judged = adoption.judge(path, on_block)
    except (CheckpointCorrupt, UnknownFormat):
        return None
    if known is not None and known.checksum == judged.checksum:
        return known
    return judged.record(step, time=time)


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
