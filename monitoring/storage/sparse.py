"""Copies that leave holes where the source has them: a sparse file takes no more room."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)


def is_sparse(status: os.stat_result) -> bool:
    """Whether a file takes less room than its size."""
    return status.st_blocks * 512 < status.st_size


def is_zero(block: bytes | memoryview) -> bool:
    """Whether a block, of at most 1 MiB, has no bytes but zeros."""
    return block == _ZEROS[: len(block)]


def copy(source: Path, target: Path) -> None:
    """Copies the content of a file; raises `OSError`."""
    with source.open("rb", buffering=0) as read:
        status = os.fstat(read.fileno())
        if not is_sparse(status):
            shutil.copyfile(source, target)
            return
        with target.open("wb", buffering=0) as written:
            end = 0
            while (start := next_data(read.fileno(), end)) is not None:
                end = os.lseek(read.fileno(), start, os.SEEK_HOLE)
                read.seek(start)
                written.seek(start)
                while start < end and (data := read.read(min(_BLOCK, end - start))):
                    while data:
                        data = data[written.write(data) :]
                    start = read.tell()
            written.truncate(max(status.st_size, written.tell()))


def next_data(file: int, offset: int) -> int | None:
    """Where the next data of a file begins; None if there is only a hole up to its end."""
    try:
        return os.lseek(file, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
