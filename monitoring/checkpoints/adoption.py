"""Checkpoints of other programs: checked without torch, and adopted by writing a commit record.

Such a file has no record. If it is whole, it is a valid checkpoint. If it is not, a program that
does not use temporary names may be writing it at this moment, so it is left alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from monitoring.checkpoints import commit, torch_file
from monitoring.checkpoints.commit import CheckpointCorrupt, CommitRecord
from monitoring.checkpoints.torch_file import NoTorchFileError, TorchFile
from monitoring.files import locked
from monitoring.paths import step_of

_LONGEST_NAME = 256  # bytes of a file that may hold a name in place of a link

Identity = tuple[int, int, int]  # inode, bytes, nanoseconds of the last change


class UnknownFormat(Exception):  # noqa: N818
    """The file is not a zip archive: only torch can tell whether it is whole."""


@dataclass(frozen=True)
class Judged:
    """A whole file without a record, as it was when all of it was read."""

    identity: Identity
    checksum: str  # as commit records spell it
    time: float  # of its last change, seconds since the epoch

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.identity[1]

    def record(self, step: int, *, time: float, attempt: int = 0) -> CommitRecord:
        """Return the commit record of this file; `time` gives its place in the order of its run."""
        return CommitRecord(step, self.size, self.checksum, attempt, time, adopted=True)

    def is_still(self, checkpoint: Path) -> bool:
        """Whether the file has not changed since. Raises OSError."""
        return _identity(checkpoint) == self.identity


def judge(checkpoint: Path, on_block: Callable[[], None] = lambda: None) -> Judged:
    """Read all of a file that has no record. `on_block` is called between blocks.

    Raises CheckpointCorrupt if it is not a whole checkpoint, UnknownFormat if only torch can tell,
    and OSError if it cannot be read.
    """
    identity = _identity(checkpoint)
    if not torch_file.begins_as_zip(checkpoint):
        raise UnknownFormat(checkpoint.name)
    try:
        with TorchFile(checkpoint) as file:
            file.verify(on_block)
            if not isinstance(file.content, dict):
                raise NoTorchFileError(f"{checkpoint.name} does not hold a dict")
    except NoTorchFileError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise CheckpointCorrupt(checkpoint, str(error)) from error
    return measure(checkpoint, identity, on_block)


def measure(
    checkpoint: Path, identity: Identity | None = None, on_block: Callable[[], None] = lambda: None
) -> Judged:
    """Compute the checksum of a file that is whole; `identity` is its identity when it was checked.

    Raises CheckpointCorrupt if it has changed since, and OSError.
    """
    identity = identity or _identity(checkpoint)
    found = commit.checksum(checkpoint, "crc32", on_block)
    if _identity(checkpoint) != identity:
        raise CheckpointCorrupt(checkpoint, "it changed while it was read")
    return Judged(identity, found, identity[2] / 1e9)


def adopt(checkpoint: Path, judged: Judged, *, time: float) -> CommitRecord | None:
    """Write the record of a file, unless it has changed or has a record by now. Raises OSError."""
    step = step_of(checkpoint)
    assert step is not None  # noqa: S101
    with locked(checkpoint.parent):  # a program that uses this library may save this step now
        try:
            if not commit.read(checkpoint).adopted:
                return None
        except FileNotFoundError:
            pass
        except CheckpointCorrupt:
            return None
        if not judged.is_still(checkpoint):
            return None
        record = judged.record(step, time=time)
        commit.write(checkpoint, record)
        return record


def link_target(link: Path) -> str | None:
    """The name of the checkpoint that a link points at; None if it is not such a link.

    A link may have become a text file, as git writes it on some systems; then the text is read.
    """
    with contextlib.suppress(OSError):
        return str(link.readlink())
    with contextlib.suppress(OSError, ValueError):
        if link.stat().st_size < _LONGEST_NAME:
            text = link.read_text().strip()
            return text if step_of(Path(text)) is not None else None
    return None


def _identity(path: Path) -> Identity:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
