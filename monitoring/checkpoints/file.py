"""A file that is written once, sequentially, with its checksum.

With direct I/O (O_DIRECT) the bytes go to the disk without a copy in the page cache, which would
take processor time from the training and evict its data. Direct I/O needs whole blocks at aligned
addresses: aligned memory is written as it is, everything else goes through a small buffer.
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

BLOCK = 4096  # bytes: a multiple of the alignment that disks and file systems need
_CHUNK = 4 << 20  # bytes of one call: still in the processor's cache for the checksum
_BUFFER = 1 << 20


class ChecksummedFile:
    """Writes a file and computes its size and CRC-32.

    Args:
        path: the file; created or truncated.
        direct: bypass the page cache, if the file system supports that.
    """

    def __init__(self, path: Path, *, direct: bool = False) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)
        self._direct = direct and self._set_direct(True)
        self._buffer = mmap.mmap(-1, _BUFFER)
        self._filled = 0  # bytes in the buffer, the next ones of the file
        self._crc = 0
        self.size = 0  # bytes written
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
        """The checksum of all bytes written, in the format of commit records."""
        return crc32_text(self._crc)

    def write(self, data: bytes | memoryview) -> int:
        """Write all of `data`. Raises OSError and keeps it in `error`."""
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
        """Do nothing: `sync` writes the buffer."""

    def sync(self) -> None:
        """Write the buffer and wait for the disk. Raises OSError."""
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
            # Both calls release the interpreter lock.
            try:
                count = os.write(self._descriptor, view[start : start + _CHUNK])
            except OSError as error:
                # The file system may have stricter rules.
                if self._direct and error.errno == errno.EINVAL:
                    self._direct = self._set_direct(False)
                    continue
                self.error = self.error or error
                raise
            self._crc = zlib.crc32(view[start : start + count], self._crc)
            start += count
            self.size += count

    def _set_direct(self, direct: bool) -> bool:
        """Switch direct I/O on or off; return whether it is on."""
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & ~os.O_DIRECT
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_DIRECT * direct)
        except OSError:  # as some file systems do
            return False
        return direct


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0]) if len(view) else 0
