"""The checkpoints of a run: those of this library, and those of other programs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from monitoring.checkpoints import commit
from monitoring.checkpoints.commit import CheckpointCorrupt, CommitRecord
from monitoring.paths import commit_record, step_of
from monitoring.storage.base import Fence, Storage
from worker.files.look import Look, Seen
from worker.files.mirror.adoptions import Adoptions
from worker.files.scratch import Restored, Scratch, Version


class Checkpoints:
    """What a mirror has to know of checkpoints; `is_stored` says whether storage has a path.

    Its methods raise the errors of `Storage`.
    """

    def __init__(
        self,
        storage: Storage,
        scratch: Scratch,
        fence: Fence,
        restored: Restored,
        is_stored: Callable[[str], bool],
    ) -> None:
        self._storage = storage
        self._scratch = scratch
        self._root = scratch.run.root
        self._fence = fence
        self._is_stored = is_stored
        self._adoptions = Adoptions(scratch, restored, fence.attempt)
        self._unfetched = restored.unfetched
        self._left = dict(restored.left)  # older ones, which this attempt did not fetch
        self.newest = restored.checkpoint  # in storage

    def settle(self) -> None:
        """Commits a checkpoint that a killed child had written except for its record."""
        for path in self._scratch.run.checkpoints.glob("*.pt"):
            with contextlib.suppress(OSError):
                commit.settle(path)

    def is_complete(self, path: str, seen: Seen | None) -> bool:
        """Whether this library wrote or removed a file: it does both at once."""
        if not path.startswith("checkpoints/"):
            return False
        if seen is None:
            return self.is_ours(path)
        if seen.kind == "link":
            return _is_committed(self._root / "checkpoints" / seen.target)
        file = self._root / path
        return _is_committed(file.with_suffix("") if path.endswith(".json") else file)

    def is_ours(self, path: str) -> bool:
        """Whether a path is a checkpoint that this library committed, or its record."""
        if not path.startswith("checkpoints/") or not path.endswith((".pt", ".pt.json")):
            return False
        record = path if path.endswith(".json") else f"{path}.json"
        return self._is_stored(record) or _is_committed(self._root / record.removesuffix(".json"))

    def note(self, taken: Iterable[str]) -> None:
        """Notes the newest checkpoint of this library."""
        for path in taken:
            if path.startswith("checkpoints/") and path.endswith(".pt.json"):
                with contextlib.suppress(CheckpointCorrupt, OSError):
                    self._note_checkpoint(commit.read((self._root / path).with_suffix("")))

    def _note_checkpoint(self, found: CommitRecord) -> None:
        if self.newest is None or found.time > self.newest.time:
            self.newest = found

    def adopt(self, taken: Look) -> None:
        """Stores the records of whole checkpoints that another program wrote."""
        folder = self._scratch.run.checkpoints
        stored = {
            folder.parent / path: Version(seen.inode, seen.size, seen.modified_ns)
            for path, seen in taken.items()
            if seen.kind == "file" and (self._root / path).parent == folder
        }
        foreign = {
            path
            for path in stored
            if step_of(path) is not None and commit_record(path) not in stored
        }
        for path in self._adoptions.whole(foreign, closing=True):
            record = self._adoptions.record(path, stored.get(path))
            if record is not None:
                written = self._adoptions.write(path, record)
                self._storage.put(self._key(self._name(commit_record(path))), written, self._fence)
                self._adoptions.stored[path] = record
                self._note_checkpoint(record)

    def forget(self, path: str) -> None:
        """Forgets a file that was removed, with the record that storage has of it."""
        file = self._root / path
        if file in self._adoptions.stored:
            self._storage.delete(self._key(self._name(commit_record(file))), self._fence)
        self._adoptions.forget(file)

    def absent(self) -> set[str]:
        """The paths that this attempt left in storage, unless the program has removed them."""
        if self._left:
            here = commit.committed(self._scratch.run.checkpoints)
            records = {path: record for record, path in here}
            self._left = {p: record for p, record in self._left.items() if p not in records}
            newest = max(records.values(), key=lambda record: record.time, default=None)
            if newest is not None and newest.attempt == self._fence.attempt and newest.keep:
                times = sorted((r.time for r in (self._left | records).values()), reverse=True)
                kept = times[: newest.keep]
                self._left = {p: record for p, record in self._left.items() if record.time in kept}
        left = {self._name(name) for path in self._left for name in (path, commit_record(path))}
        return left | self._unfetched

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _key(self, path: str) -> str:
        return f"{self._fence.run}/{path}"


def _is_committed(path: Path) -> bool:
    """Whether this library committed a checkpoint: then the file is replaced but never modified.

    Another program may rewrite its files in place, and a hard link would pass that to storage.
    """
    if path.suffix != ".pt" or step_of(path) is None:
        return False
    try:
        record = commit.read(path)
        return not record.adopted and record.size == path.stat().st_size
    except (CheckpointCorrupt, OSError):
        return False
