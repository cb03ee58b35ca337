"""What an attempt finds of earlier ones when it begins, whatever its program is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from machine.text import duration, plain
from monitoring.checkpoints.commit import CommitRecord
from monitoring.disk import file_size
from worker.files.scratch import Restored


@dataclass(frozen=True)
class Found:
    """The restored files: their number, size in bytes, and the newest of them.

    `newest_at` is in seconds since the epoch.
    """

    files: int
    size: int
    newest: str | None = None
    newest_at: float | None = None

    @classmethod
    def of(cls, restored: Restored) -> Self:
        """The files that are here, of those that earlier attempts left."""
        files = {
            path: restored.entries[path].modified_ns
            for path, seen in restored.look.items()
            if seen.kind == "file"
        }
        if not files:
            return cls(0, 0)
        newest = max(files, key=lambda path: files[path])
        size = sum(restored.look[path].size for path in files)
        return cls(len(files), size, newest, files[newest] / 1e9)

    def measures(self) -> dict[str, int | float | str | None]:
        """The fields of a receipt."""
        return {
            "restored_files": self.files,
            "restored_bytes": self.size,
            "restored_newest": self.newest,
            "restored_newest_at": self.newest_at,
        }

    def line(self, checkpoint: CommitRecord | None, now: float) -> str:
        """Where the attempt starts, as far as that is known. `now` is in seconds since the epoch.

        A program may resume from any of the files, or from none.
        """
        if self.newest is None or self.newest_at is None:
            return "from the beginning"
        count = "1 file" if self.files == 1 else f"{self.files} files"
        age = duration(now - self.newest_at)
        newest = f"the newest {plain(self.newest)}, {age} old"
        files = f"{count} of the run, {file_size(self.size)}, {newest}"
        if checkpoint is None:
            return f"with {files}"
        return f"from the checkpoint of step {checkpoint.step}, with {files}"
