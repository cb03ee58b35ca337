"""Commit records: size, checksum, step and time of each checkpoint file.

A checkpoint is written under a temporary name and counts once its record exists beside it. The
order on disk is: the data (temporary name, synced), the intent (`….pt.json.next`), the data under
its name, the record under its name. A process that is killed in between leaves either the previous
checkpoint or the new one, even if both have the same step: data that differs from the record is
compared with the intent.

A file that another program wrote has no record until it is adopted (`adoption.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monitoring.crc import crc32_text
from monitoring.files import open_file, sync, write_atomically
from monitoring.paths import commit_record, step_of

_BLOCK = 1 << 20
_MAX_RECORD_BYTES = 1 << 20


class CheckpointCorrupt(Exception):  # noqa: N818
    """The file of a checkpoint differs from its commit record; `path` and `cause` say how."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.path = path
        self.cause = cause


class Uncommitted(CheckpointCorrupt):
    """A checkpoint file has no commit record: another program may have written it."""


@dataclass(frozen=True)
class CommitRecord:
    """The description of a committed checkpoint. The record file has a checksum of its own."""

    step: int
    size: int  # bytes
    checksum: str  # "crc32:0123abcd" or "sha256:…"
    attempt: int  # the fencing number, 0 outside the service
    time: float  # seconds since the epoch; later than that of every earlier checkpoint
    seconds: float = 0.0  # duration of the save, from the call until the data was synced
    keep: int = 0  # how many of the newest checkpoints the program keeps; 0 if unknown
    adopted: bool = False  # another program wrote the file, and may write it again


def write(checkpoint: Path, record: CommitRecord) -> None:
    """Write the record of a checkpoint that is in place. Raises OSError."""
    write_atomically(commit_record(checkpoint), _encode(record))


def publish(draft: Path, checkpoint: Path, record: CommitRecord) -> None:
    """Move a synced draft to its name and commit it; safe at any instant. Raises OSError."""
    settle(checkpoint)
    write_atomically(_intent(checkpoint), _encode(record))
    draft.replace(checkpoint)
    sync(checkpoint.parent)
    _intent(checkpoint).replace(commit_record(checkpoint))
    sync(checkpoint.parent)


def read(checkpoint: Path) -> CommitRecord:
    """Read the commit record of a checkpoint.

    Raises FileNotFoundError if there is none and CheckpointCorrupt if it is unreadable.
    """
    return _decode(commit_record(checkpoint))


def decode(data: bytes, path: Path) -> CommitRecord:
    """The commit record in `data`, which lies at `path`; raises CheckpointCorrupt."""
    try:
        values = json.loads(data)
        own_sum = values.pop("record")
        record = CommitRecord(**values)
    except (
        ValueError, KeyError, AttributeError, TypeError, RecursionError, OverflowError
    ) as error:  # fmt: skip
        raise CheckpointCorrupt(path, f"its commit record is unreadable ({error!r})") from error
    if own_sum != _sum_of(record):
        raise CheckpointCorrupt(path, "its commit record is damaged")
    if str(record.checksum).partition(":")[0] not in ("crc32", "sha256"):
        raise CheckpointCorrupt(path, f"the kind of its checksum {record.checksum!r} is unknown")
    return record


def has_record(checkpoint: Path) -> bool:
    """Whether a checkpoint has a record, readable or not, or an intent."""
    return commit_record(checkpoint).exists() or _intent(checkpoint).exists()


def claimed(checkpoint: Path) -> CommitRecord:
    """Read the commit record of a checkpoint, or else its intent.

    Raises what `read` does.
    """
    # The intent may become the record between two looks.
    for candidate in (commit_record(checkpoint), _intent(checkpoint)):
        with contextlib.suppress(FileNotFoundError):
            return _decode(candidate)
    return read(checkpoint)


def verify(checkpoint: Path, on_block: Callable[[], None] = lambda: None) -> CommitRecord:
    """Compare every byte of a checkpoint with its record, and return the record.

    `on_block` is called between blocks and ends it all by raising. Raises CheckpointCorrupt with
    the cause, its subclass Uncommitted if there is no record or another program has written the
    file anew since it was adopted, and FileNotFoundError if there is no such file.
    """
    while True:
        before = _names(checkpoint)
        verdict = _verdict(checkpoint, on_block)
        if isinstance(verdict, CommitRecord):
            return verdict
        # Another process that saves may have renamed a file meanwhile: that is no damage.
        if _names(checkpoint) == before:
            raise verdict


def committed(checkpoints_dir: Path) -> list[tuple[CommitRecord, Path]]:
    """List the committed checkpoints of a run by step, without reading their bytes.

    The newest is the one with the latest `record.time`: a run that restarted from an early step
    commits lower steps after higher ones.
    """
    found = []
    for path in checkpoints_dir.glob("checkpoint_step_*.pt"):
        if step_of(path) is None:
            continue
        # The intent may become the record between two looks.
        for candidate in (commit_record(path), _intent(path), commit_record(path)):
            try:
                record = _decode(candidate)
                if record.size == path.stat().st_size:
                    found.append((record, path))
                    break
            except (CheckpointCorrupt, OSError):
                continue
    return sorted(found, key=lambda item: item[0].step)


def settle(checkpoint: Path) -> None:
    """Finish a commit of a killed process if the data agrees with the intent. Raises OSError."""
    intent = _intent(checkpoint)
    try:
        if _mismatch(checkpoint, _decode(intent)) is None:
            intent.replace(commit_record(checkpoint))
            sync(checkpoint.parent)
    except (CheckpointCorrupt, FileNotFoundError):
        return


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint, its record and its intent. Raises OSError."""
    checkpoint.unlink(missing_ok=True)
    commit_record(checkpoint).unlink(missing_ok=True)
    _intent(checkpoint).unlink(missing_ok=True)


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint and its record to `….corrupt`; return the new path.

    Raises OSError.
    """
    aside = checkpoint.with_name(checkpoint.name + ".corrupt")
    record = commit_record(checkpoint)
    checkpoint.replace(aside)
    if record.exists():
        record.replace(record.with_name(record.name + ".corrupt"))
    _intent(checkpoint).unlink(missing_ok=True)
    return aside


def checksum(path: Path, algorithm: str, on_block: Callable[[], None] = lambda: None) -> str:
    """Return the checksum of a file as in its record: "crc32:…" or "sha256:…". Raises OSError."""
    update, digest = _hasher(algorithm)
    with open_file(path, follow=True) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        block = bytearray(_BLOCK)
        view = memoryview(block)
        while count := file.readinto(block):
            on_block()
            update(view[:count])
    return digest()


def _hasher(algorithm: str) -> tuple[Callable[[memoryview], None], Callable[[], str]]:
    if algorithm == "sha256":
        sha = hashlib.sha256()
        return sha.update, lambda: f"sha256:{sha.hexdigest()}"
    crc = 0

    def update(data: memoryview) -> None:
        nonlocal crc
        crc = zlib.crc32(data, crc)

    return update, lambda: crc32_text(crc)


def _verdict(checkpoint: Path, on_block: Callable[[], None]) -> CommitRecord | CheckpointCorrupt:
    """The record that agrees with the file, or the reason why there is none."""
    # An intent alone does not describe a file that was there before: another program may own it.
    verdict: CheckpointCorrupt = Uncommitted(checkpoint, "it has no commit record")
    for candidate in (commit_record(checkpoint), _intent(checkpoint)):
        try:
            record = _decode(candidate)
        except FileNotFoundError:
            continue
        except CheckpointCorrupt as corrupt:
            if candidate == commit_record(checkpoint):
                verdict = CheckpointCorrupt(checkpoint, corrupt.cause)
            continue
        mismatch = _mismatch(checkpoint, record, on_block)
        if mismatch is None:
            return record
        if candidate == commit_record(checkpoint):
            kind = Uncommitted if record.adopted else CheckpointCorrupt
            verdict = kind(checkpoint, mismatch)
    return verdict


def _names(checkpoint: Path) -> list[tuple[int, int] | None]:
    """The identities of a checkpoint's files. Raises FileNotFoundError if it was removed."""
    checkpoint.stat()
    return [
        _identity(path) for path in (checkpoint, commit_record(checkpoint), _intent(checkpoint))
    ]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _mismatch(
    checkpoint: Path, record: CommitRecord, on_block: Callable[[], None] = lambda: None
) -> str | None:
    size = checkpoint.stat().st_size
    if size != record.size:
        return f"it has {size} bytes; its commit record says {record.size}"
    found = checksum(checkpoint, record.checksum.partition(":")[0], on_block)
    if found != record.checksum:
        return f"its checksum is {found}; its commit record says {record.checksum}"
    return None


def _intent(checkpoint: Path) -> Path:
    record = commit_record(checkpoint)
    return record.with_name(record.name + ".next")


def _encode(record: CommitRecord) -> bytes:
    return json.dumps({**_values(record), "record": _sum_of(record)}).encode()


def _sum_of(record: CommitRecord) -> str:
    """The checksum of the record itself: a flipped bit in it must not select another checkpoint."""
    return crc32_text(zlib.crc32(json.dumps(_values(record), sort_keys=True).encode()))


def _values(record: CommitRecord) -> dict[str, Any]:
    values = asdict(record)
    if not record.adopted:  # a field that records of earlier versions do not have
        del values["adopted"]
    return values


def _decode(path: Path) -> CommitRecord:
    with open_file(path) as file:
        return decode(file.read(_MAX_RECORD_BYTES), path)
