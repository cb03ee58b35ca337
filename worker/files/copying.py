"""Copies the bytes of files, sharing blocks where the file system can (Btrfs, XFS)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

# Makes a file share the blocks of another one, until either is written to (linux/fs.h).
_FICLONE = 0x40049409
_BLOCK = 1 << 20


class Copying:
    """Copies between open files of the same two file systems."""

    def __init__(self) -> None:
        self._may_clone = True

    def copy(
        self, source: int, target: int, on_block: Callable[[int], None] = lambda _: None
    ) -> None:
        """Copies all that the descriptor `source` has to the empty file `target`.

        `on_block` is called with the size of each block, and ends it by raising. Raises `OSError`.
        """
        if self._cloned(source, target):
            on_block(os.fstat(target).st_size)
            return
        while block := os.read(source, _BLOCK):
            on_block(len(block))
            view = memoryview(block)
            while view:
                view = view[os.write(target, view) :]

    def _cloned(self, source: int, target: int) -> bool:
        """Makes one file share the blocks of another; whether the file system can."""
        if self._may_clone:
            try:
                fcntl.ioctl(target, _FICLONE, source)
            except OSError:
                self._may_clone = False
        return self._may_clone
