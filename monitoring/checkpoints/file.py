"""A new file that is written once, in order, with its checksum and at little cost to others.

Written directly (O_DIRECT), the bytes go from our memory to the disk without a copy in the
kernel's, which would take a processor from the training and crowd out its data there. The disk
takes whole blocks only, from addresses that are multiples of a block: memory that lies so is
written as it is, all else goes through a small buffer.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import zlib
from pathlib import Path
from types import TracebackType

import numpy as np

from monitoring.crc import crc32_text

BLOCK = 4096  # bytes: a multiple of what every disk and file system asks for
_CHUNK = 4 << 20  # bytes of one call: still in the processor's cache when they are summed
_BUFFER = 1 << 20


class ChecksummedFile:
    """A file that knows its size and the CRC-32 of what was written into it.

    Args:
        path: the file, made or emptied.
        direct: past the kernel's memory, where the file system can do that.
    """

    def __init__(self, path: Path, *, direct: bool = False) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)
        self._direct = direct and self._set_direct(True)
        self._buffer = mmap.mmap(-1, _BUFFER)
        self._filled = 0  # bytes in the buffer, which come next in the file
        self._crc = 0
        self.size = 0  # bytes that the file system took
        self.error: OSError | None = None

    def __enter__(self) -> ChecksummedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    @property
    def checksum(self) -> str:
        """The checksum of all that was written, as commit records spell it."""
        return crc32_text(self._crc)

    def write(self, data: bytes | memoryview) -> int:
        """Write all of it. Raises OSError, which `error` keeps."""
        view = memoryview(data)
        if self._direct:
            self._write_blocks(view)
        elif self._filled + len(view) <= _BUFFER:
            self._keep(view)
        else:
            self._write_buffer()
            self._put(view)
        return len(view)

    def flush(self) -> None:
        """Nothing that has to be written at once."""

    def sync(self) -> None:
        """Write what is left and wait until the disk has all. Raises OSError."""
        if self._direct and self._filled % BLOCK:
            self._direct = self._set_direct(False)
        self._write_buffer()
        os.fsync(self._descriptor)

    def _write_blocks(self, view: memoryview) -> None:
        start, address = 0, _address(view)
        while start < len(view):
            gap = -self._filled % BLOCK  # bytes up to where a block of the file begins
            whole = (len(view) - start - gap) // BLOCK * BLOCK
            if whole > 0 and (address + start + gap) % BLOCK == 0:
                self._keep(view[start : start + gap])
                self._write_buffer()
                start += gap
                self._put(view[start : start + whole])
                start += whole
            else:
                part = view[start : start + _BUFFER - self._filled]
                self._keep(part)
                start += len(part)
                if self._filled == _BUFFER:
                    self._write_buffer()

    def _keep(self, part: memoryview) -> None:
        self._buffer[self._filled : self._filled + len(part)] = part
        self._filled += len(part)

    def _write_buffer(self) -> None:
        filled, self._filled = self._filled, 0
        with memoryview(self._buffer) as view, view[:filled] as part:
            self._put(part)

    def _put(self, view: memoryview) -> None:
        start = 0
        while start < len(view):
            # Both calls leave the interpreter to the training loop while they work.
            try:
                count = os.write(self._descriptor, view[start : start + _CHUNK])
            except OSError as error:
                if self._direct and error.errno == errno.EINVAL:  # by a file system's own rules
                    self._direct = self._set_direct(False)
                    continue
                self.error = self.error or error
                raise
            self._crc = zlib.crc32(view[start : start + count], self._crc)
            start += count
            self.size += count

    def _set_direct(self, direct: bool) -> bool:
        """Switch; whether the file is written directly now."""
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & ~os.O_DIRECT
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_DIRECT * direct)
        except OSError:  # as some file systems do
            return False
        return direct


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0]) if len(view) else 0
