"""A part of a file as a file of its own, for servers that send files by themselves."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer


class Part(io.RawIOBase):
    """The `size` bytes of a file that follow `start`; raises `OSError` as files do."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        super().__init__()
        self._file = path.open("rb", buffering=0)
        self._start = start
        self._size = size
        self._file.seek(start)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Reads up to the end of the part."""
        target = memoryview(buffer)
        left = max(0, self._size - self.tell())
        return self._file.readinto(target[: min(len(target), left)]) or 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves within the part; returns the new position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        return self._file.seek(self._start + base + offset) - self._start

    def tell(self) -> int:
        """The position in the part."""
        return self._file.tell() - self._start

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()
