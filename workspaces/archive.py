"""Packs a workspace: the same files give the same archive, with the same SHA-256."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from workspaces.git import Repository
from workspaces.ignore import Ignored
from workspaces.layout import (
    FILES,
    GIT,
    IGNORE_FILE,
    PATCH,
    WorkspaceError,
    bytes_text,
    count_text,
)
from workspaces.listing import Listing, Member, is_sent, list_members

_TRIES = 4
_PAUSE_SECONDS = 0.25
# A file system's clock is this coarse: a file that changed just now may change again in the same
# tick, without another time.
_TICK_SECONDS = 0.02
_TICKS = 5
# Of text, a higher level saves a tenth of the bytes and takes several times as long.
_LEVEL = 1
_NAMED = 3


@dataclass(frozen=True)
class Packed:
    """An archive: the hash and size of it, and what it holds; sizes in bytes."""

    sha256: str
    size: int
    files: int
    bytes: int
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        return f"workspace: {count_text(self.files)}, {bytes_text(self.bytes)}"

    def reference(self) -> dict[str, object]:
        """What a job says of its workspace."""
        return {"sha256": self.sha256, "files": self.files, "bytes": self.bytes}


def pack(root: Path, target: IO[bytes], *, limit: int, exclude: Sequence[str] = ()) -> Packed:
    """Writes the archive of a directory into a file that is open for writing.

    `limit`: of the size of the files, bytes. `exclude`: patterns as in `.gitignore`. What is
    packed comes from one time: if anything changes meanwhile, all is packed again. Raises
    `WorkspaceError`, and `OSError` for `target`.
    """
    if not root.is_dir():
        raise WorkspaceError(f"there is no directory {root}")
    ignored = Ignored(root, exclude)
    repository = Repository.of(root)
    changed: list[str] = []
    for left in reversed(range(_TRIES)):
        listing = _settled(root, ignored, repository)
        listing.check(limit)
        target.seek(0)
        target.truncate()
        sha256 = _write(root, listing, repository, ignored, target)
        if sha256 is not None:
            again = list_members(root, ignored, repository)
            changed = _differing(listing, again)
            if not changed:
                size = target.tell()
                return Packed(sha256, size, listing.files, listing.bytes, listing.notes)
        else:
            changed = _differing(listing, list_members(root, ignored, repository))
        if left:
            time.sleep(_PAUSE_SECONDS)
    names = ", ".join(sorted(changed)[:_NAMED]) or "a file"
    raise WorkspaceError(
        f"{names} changed each time that the workspace was packed: stop what writes there, or "
        f"name it in {IGNORE_FILE}"
    )


def _settled(root: Path, ignored: Ignored, repository: Repository | None) -> Listing:
    """A listing without files that may change without a change of their time."""
    for _ in range(_TICKS):
        listing = list_members(root, ignored, repository)
        newest = max((member.version[1] for member in listing.members.values()), default=0)
        if not 0 <= time.time() - newest / 1e9 < _TICK_SECONDS:
            break
        time.sleep(_TICK_SECONDS)
    return listing


def _differing(before: Listing, after: Listing) -> list[str]:
    paths = before.members.keys() | after.members.keys()
    return [path for path in paths if before.members.get(path) != after.members.get(path)]


def _write(
    root: Path,
    listing: Listing,
    repository: Repository | None,
    ignored: Ignored,
    target: IO[bytes],
) -> str | None:
    """Writes the archive and returns its SHA-256; None if a file has changed."""
    hashing = _Hashing(target)
    with (
        gzip.GzipFile("", "wb", _LEVEL, cast(IO[bytes], hashing), mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path, member in listing.members.items():
            if not _add(tar, root, path, member):
                return None
        if repository is not None:
            said, patch = repository.changes(lambda path: is_sent(path, ignored))
            commit = json.dumps({**repository.commit(), **said}, indent=2, ensure_ascii=True)
            for name, data in ((GIT, commit.encode()), (PATCH, patch)):
                if data:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return hashing.sha256.hexdigest()


def _add(tar: tarfile.TarFile, root: Path, path: str, member: Member) -> bool:
    """Adds a member; whether it still was what the listing says."""
    # The owner and the times of all members are the same.
    info = tarfile.TarInfo(f"{FILES}/{path}")
    info.mode = 0o755 if member.executable or member.kind == "folder" else 0o644
    if member.kind != "file":
        info.type = tarfile.SYMTYPE if member.kind == "link" else tarfile.DIRTYPE
        info.linkname = member.target
        tar.addfile(info)
        return True
    info.size = member.size
    try:
        descriptor = os.open(root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise WorkspaceError(
            f"{path} cannot be read ({error.strerror}): name it in {IGNORE_FILE}"
        ) from None
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size != member.size:
            return False
        try:
            tar.addfile(info, file)
        except OSError:
            if os.fstat(file.fileno()).st_size >= member.size:
                raise  # not of the file, which is as long as before
            return False
    return True


class _Hashing(io.RawIOBase):
    """A file that is written, and the SHA-256 of what was."""

    def __init__(self, target: IO[bytes]) -> None:
        self.sha256 = hashlib.sha256()
        self._target = target

    def writable(self) -> bool:
        """Always true."""
        return True

    def write(self, data: Any, /) -> int:
        """Writes all of it."""
        block = memoryview(data)
        self.sha256.update(block)
        self._target.write(block)
        return block.nbytes
