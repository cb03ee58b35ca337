"""Tells files that are only appended to from those that are rewritten."""

from __future__ import annotations

import os
import random
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from monitoring.files import ARCHIVE_HEAD, begins_archive, open_file
from monitoring.storage.sparse import is_sparse, next_data
from worker.files.look import Seen

_BLOCK = 1 << 20
_OF_ZEROS = zlib.crc32(bytes(_BLOCK))
_LONG_BYTES = 64 << 20
_SAMPLES = 8
_LOOKS = 6
_NAMES = (".jsonl", ".log")
_SQLITE = b"SQLite format 3\0"
_JOURNALS = ("-journal", "-wal", "-shm")
_EVENTS = "events.out.tfevents"


@dataclass
class Prefix:
    """The first `size` bytes of a file, by which it is recognized: a CRC-32 for each block."""

    size: int = 0
    blocks: list[int] = field(default_factory=list)
    _rest: int = 0  # CRC-32 of the last, incomplete block

    def extend(self, data: bytes | memoryview) -> None:
        """Adds the bytes that follow."""
        while data:
            part = data[: _BLOCK - self.size % _BLOCK]
            self._rest = zlib.crc32(part, self._rest)
            self.size += len(part)
            if self.size % _BLOCK == 0:
                self.blocks.append(self._rest)
                self._rest = 0
            data = data[len(part) :]

    def matches(self, file: int) -> bool:
        """Whether an open file begins with these bytes; of a large one some blocks and the end.

        Raises `OSError`.
        """
        count = len(self.blocks)
        chosen = list(range(count))
        if count > _SAMPLES:
            chosen = [0, count - 1, *random.sample(chosen, _SAMPLES)]
        blocks = (os.pread(file, _BLOCK, number * _BLOCK) for number in chosen)
        if any(zlib.crc32(b) != self.blocks[n] for n, b in zip(chosen, blocks, strict=True)):
            return False
        rest = os.pread(file, self.size % _BLOCK, count * _BLOCK)
        return zlib.crc32(rest) == self._rest

    @classmethod
    def of(cls, path: Path, size: int) -> Prefix:
        """The first `size` bytes of a file; raises `OSError`."""
        prefix = cls()
        with path.open("rb", buffering=0) as file:
            has_holes = is_sparse(os.fstat(file.fileno()))
            while prefix.size < size:
                if has_holes and prefix.size % _BLOCK == 0:
                    data_at = next_data(file.fileno(), prefix.size)
                    prefix._skip((min(size, size if data_at is None else data_at)) // _BLOCK)
                    file.seek(prefix.size)
                if not (data := file.read(min(_BLOCK, size - prefix.size))):
                    break
                prefix.extend(data)
        return prefix

    def _skip(self, end: int) -> None:
        """Adds blocks of zeros, up to the block of this number."""
        count = end - len(self.blocks)
        if count > 0:
            self.blocks += [_OF_ZEROS] * count
            self.size += count * _BLOCK


class Growth:
    """Watches files of which storage has no version, or another one."""

    def __init__(self) -> None:
        # By path: inode and size at the last look, and at how many looks it had only grown.
        self._watched: dict[str, tuple[int, int, int]] = {}

    def grows(self, path: str, file: str, seen: Seen, *, is_new: bool = True) -> bool:
        """Whether a file only grows: a new log by its name, any file once it has for a while.

        Raises `OSError`.
        """
        inode, size, looks = self._watched.get(path, (seen.inode, -1, 0))
        if inode != seen.inode or seen.size < size:
            looks = 0
        elif seen.size > size:
            looks += 1
        self._watched[path] = seen.inode, seen.size, looks
        name = path.rpartition("/")[2]
        is_log = is_new and (name.endswith(_NAMES) or name.startswith(_EVENTS))
        return seen.size > 0 and (is_log or looks > _LOOKS) and not is_archive(file)

    def forget(self, path: str) -> None:
        """Forgets a file of which a version was published."""
        self._watched.pop(path, None)


def is_database(file: str) -> bool:
    """Whether a file is an SQLite database or a journal of one: sound at any time, with the other.

    Raises nothing.
    """
    base = file
    for suffix in _JOURNALS:
        base = base.removesuffix(suffix)
    try:
        with open_file(base, follow=True) as opened:
            return opened.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def has_hole(file: int, start: int, end: int) -> bool:
    """Whether a part of an open file has a hole, and is too long to read that through."""
    return end - start > _LONG_BYTES and os.lseek(file, start, os.SEEK_HOLE) < end


def is_archive(file: str | Path) -> bool:
    """Whether a file is of no use until it is whole, by its first bytes."""
    try:
        with open_file(file, follow=True) as opened:
            return begins_archive(opened.read(ARCHIVE_HEAD))
    except OSError:
        return False
