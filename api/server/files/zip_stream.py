"""Files of a run as a zip archive, made while it is sent: in no file, and in little memory."""

from __future__ import annotations

import posixpath
import stat
import time
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, cast

from monitoring.storage.base import Storage, StoredFile

_BLOCK = 1 << 20
# The years that the format knows.
_FIRST_YEAR, _LAST_YEAR = 1980, 2107


class _Sink:
    """Takes what `zipfile` writes, until it is sent; it cannot seek."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Takes bytes."""
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Does nothing."""

    def taken(self) -> bytes:
        """What was written since the last call."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def zip_of(
    storage: Storage, files: Mapping[str, StoredFile], links: Mapping[str, str]
) -> Iterator[bytes]:
    """The archive, in blocks: the files as they are, without compression, and the links as links.

    A file that is deleted meanwhile is left out. Of one that is cut, the archive has what is there.
    Raises `OSError` and `StorageError`.
    """
    sink = _Sink()
    with zipfile.ZipFile(cast(IO[bytes], sink), "w", zipfile.ZIP_STORED) as archive:
        for path, file in files.items():
            blocks = _blocks(storage, file)
            try:
                first = next(blocks, b"")
            except FileNotFoundError:
                continue
            entry = _entry(path, file.modified, stat.S_IFREG | 0o644)
            entry.file_size = file.size  # so that one of more than 4 GiB gets the fields for it
            with archive.open(entry, "w") as target:
                target.write(first)
                yield sink.taken()
                for block in blocks:
                    target.write(block)
                    yield sink.taken()
        for path, link in links.items():
            archive.writestr(_entry(path, time.time(), stat.S_IFLNK | 0o777), link)
    yield sink.taken()


def inside(links: Mapping[str, str]) -> dict[str, str]:
    """The links that lead to something in their run: others are left out of archives."""
    return {path: target for path, target in links.items() if _stays_inside(path, target)}


def _stays_inside(path: str, target: str) -> bool:
    place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return not place.startswith(("/", ".."))


def _entry(path: str, modified: float, mode: int) -> zipfile.ZipInfo:
    moment = time.localtime(modified)[:6]
    year = min(max(moment[0], _FIRST_YEAR), _LAST_YEAR)
    entry = zipfile.ZipInfo(path, (year, *moment[1:]))
    entry.create_system = 3  # Unix: the mode counts
    entry.external_attr = mode << 16
    return entry


def _blocks(storage: Storage, file: StoredFile) -> Iterator[bytes]:
    """The file up to the size that was listed; more may have been appended since."""
    path, left = storage.local_path(file.key), file.size
    if path is not None:
        # Opened once: a file that is replaced meanwhile is the one that it was.
        with path.open("rb") as opened:
            while block := opened.read(min(_BLOCK, left)):
                left -= len(block)
                yield block
        return
    position = 0
    while left and (block := storage.read(file.key, position, min(_BLOCK, left))):
        position, left = position + len(block), left - len(block)
        yield block
