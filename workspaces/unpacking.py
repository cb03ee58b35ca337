"""Unpacks the archive of a workspace, which anybody may have made.

What an archive can do is bounded before it does it: names stay below the directory, links are made
last, so that nothing is written through them, and stay inside; sizes, the number of members and
the length of each header have limits.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NoReturn

from workspaces.layout import FILES, GIT, MAX_FILES, PATCH, VARIABLE, WorkspaceError, bytes_text
from workspaces.links import leaves

# All files get this time, 1980-01-02: a zip file, such as a wheel, holds no earlier one.
TIME_NS = 315_619_200 * 10**9
_BLOCK = 1 << 20
_HEADER_BYTES = 1 << 16
# What headers of a member may take on average; one name of 4096 bytes and its padding.
_MEMBER_BYTES = 8 << 10
_MAX_PATH, _MAX_NAME = 4096, 255
_INVALID = (tarfile.TarError, zlib.error, EOFError, ValueError, RecursionError, OverflowError)


class DamagedError(WorkspaceError):
    """The archive is damaged, or not one that may be unpacked."""


def unpack(
    archive: IO[bytes],
    target: Path,
    *,
    limit: int,
    on_block: Callable[[], None] = lambda: None,
) -> None:
    """Unpacks into the empty directory `target`; the files are below `files/` there.

    `limit`: of the size of the files, bytes. `on_block` is called often, and ends it by raising.
    Raises `DamagedError`, and `OSError` for what the disk refuses.
    """
    _Unpacking(target, limit, on_block).run(archive)


class _Unpacking:
    def __init__(self, target: Path, limit: int, on_block: Callable[[], None]) -> None:
        self._target = target
        self._limit = limit
        self._on_block = on_block
        self._bytes = self._members = 0
        self._folders = {""}
        self._links: dict[str, str] = {}

    def run(self, archive: IO[bytes]) -> None:
        (self._target / FILES).mkdir()
        self._folders.add(FILES)
        stream = _Stream(archive, self._most)
        try:
            with tarfile.open(fileobj=stream, mode="r:", errorlevel=2) as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # it would keep all
                    self._on_block()
                    self._take(tar, member)
        except _INVALID as error:
            raise DamagedError(f"the workspace's archive is damaged: {error}") from None
        # Last, so that nothing above was written through one.
        for path, link in self._links.items():
            with self._refusing_doubles(path):
                (self._target / path).symlink_to(link)
        for folder in sorted(self._folders - {""}, reverse=True):
            os.utime(self._target / folder, ns=(TIME_NS, TIME_NS))

    def _most(self) -> int:
        """How many bytes the archive may have unfolded to by now."""
        return self._limit + (self._members + 1) * _MEMBER_BYTES + _BLOCK

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self._members += 1
        if self._members > MAX_FILES + MAX_FILES // 2:  # folders are members too
            _refuse(f"it has more than {MAX_FILES:,} files")
        path = self._checked(member.name)
        if path == FILES and member.isdir():
            return
        is_extra = path in {GIT, PATCH}
        if not path.startswith(f"{FILES}/") and not (is_extra and member.isreg()):
            _refuse(f"{_shown(path)} lies outside of {FILES}/")
        self._make_folder(path.rpartition("/")[0])
        if member.isdir():
            self._make_folder(path)
        elif member.issym():
            if leaves(path.removeprefix(f"{FILES}/"), member.linkname):
                _refuse(f"the link {_shown(path)} leads to {_shown(member.linkname)}")
            self._note_link(path, member.linkname)
        elif member.isreg() and member.sparse is None:
            self._write(tar, member, path)
        else:
            _refuse(f"{_shown(path)} is neither a file nor a folder nor a link")

    def _checked(self, name: str) -> str:
        parts = name.removeprefix("./").rstrip("/").split("/")
        try:
            long = len(name.encode()) > _MAX_PATH or any(len(p.encode()) > _MAX_NAME for p in parts)
        except UnicodeEncodeError:
            _refuse(f"the name {_shown(name)} is not UTF-8")
        if long:
            _refuse(f"the name {_shown(name)} is too long")
        if name.startswith("/") or not {"", ".", ".."}.isdisjoint(parts) or "\0" in name:
            _refuse(f"the name {_shown(name)} leads out of it")
        return "/".join(parts)

    def _make_folder(self, path: str) -> None:
        if path in self._folders:
            return
        self._make_folder(path.rpartition("/")[0])
        if path in self._links:
            _refuse(f"{_shown(path)} is a link and a folder")
        with self._refusing_doubles(path):
            (self._target / path).mkdir(0o755)
        self._folders.add(path)

    def _note_link(self, path: str, link: str) -> None:
        if path in self._links or path in self._folders:
            _refuse(f"{_shown(path)} is there twice")
        self._links[path] = link

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        self._bytes += member.size
        if self._bytes > self._limit and path != PATCH:
            _refuse(
                f"its files are larger than {bytes_text(self._limit)}; {VARIABLE} of the worker "
                "sets this limit"
            )
        if path in self._links:
            _refuse(f"{_shown(path)} is there twice")
        mode = 0o755 if member.mode & 0o100 else 0o644
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._refusing_doubles(path):
            descriptor = os.open(self._target / path, flags, 0o600)
        source = tar.extractfile(member)
        assert source is not None  # noqa: S101 - it is a regular file
        with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor
            left = member.size
            while left:
                block = source.read(min(left, _BLOCK))
                if not block:
                    raise EOFError("it ends in the middle of a file")
                self._on_block()
                left -= len(block)
                while block:
                    block = block[file.write(block) :]
            os.fchmod(file.fileno(), mode)
            os.utime(file.fileno(), ns=(TIME_NS, TIME_NS))

    @contextlib.contextmanager
    def _refusing_doubles(self, path: str) -> Iterator[None]:
        try:
            yield
        except (FileExistsError, NotADirectoryError):
            _refuse(f"{_shown(path)} is there twice")


class _Stream(io.RawIOBase):
    """What a gzip file unfolds to, forwards only, no more than `most()` bytes so far."""

    def __init__(self, archive: IO[bytes], most: Callable[[], int]) -> None:
        self._archive = archive
        self._most = most
        self._unfold = zlib.decompressobj(wbits=31)
        self._ahead = b""
        self._used = 0  # of it
        self._position = 0

    def readable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """The position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Skips what is before `offset`; it can only go forwards."""
        if whence != io.SEEK_SET or offset < self._position:
            raise ValueError("its headers are not in order")
        while self._position < offset and self._take(min(offset - self._position, _BLOCK)):
            pass
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """`size` bytes, fewer at the end; refuses more than a block, which no header needs."""
        if not 0 <= size <= _BLOCK:
            raise ValueError("one of its headers is too long")
        parts = []
        while size and (part := self._take(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _take(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end."""
        while self._used == len(self._ahead):
            if self._unfold.eof:
                return b""
            data = self._unfold.unconsumed_tail or self._archive.read(_HEADER_BYTES)
            if not data:
                raise EOFError("it ends too early")
            self._ahead, self._used = self._unfold.decompress(data, _BLOCK), 0
        taken = self._ahead[self._used : self._used + size]
        self._used += len(taken)
        self._position += len(taken)
        if self._position > self._most():
            raise ValueError("it unfolds to more than is allowed")
        return taken


def _refuse(why: str) -> NoReturn:
    raise DamagedError(f"the workspace's archive was refused: {why}")


def _shown(name: str) -> str:
    text = name.encode(errors="backslashreplace").decode()
    return text if len(text) <= 120 else text[:119] + "…"
