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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
from workspaces.listing import Listing, Member, list_members

_TRIES = 4
_PAUSE_SECONDS = 0.25
# A clock of a file system is this coarse: a file that changed just now may change again in the same
# tick, without another time. Where no time has a fraction, a tick is a second or two.
_TICK_SECONDS, _LONG_TICK_SECONDS = 0.02, 2.0
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


@dataclass(frozen=True)
class State:
    """What a workspace holds at one time; `extra` are the files about its commit, by name."""

    listing: Listing
    extra: Mapping[str, bytes]

    def fingerprint(self, root: Path) -> str:
        """A hash that is the same while no file has changed; no file is read for it."""
        said = hashlib.sha256(os.fsencode(root.resolve()))
        members = {path: asdict(member) for path, member in self.listing.members.items()}
        said.update(json.dumps(members).encode())
        for name, data in self.extra.items():
            said.update(name.encode() + hashlib.sha256(data).digest())
        return said.hexdigest()

    def differing(self, other: State) -> list[str]:
        """What is not the same in another state."""
        mine, others = self.listing.members, other.listing.members
        paths = [path for path in mine.keys() | others.keys() if mine.get(path) != others.get(path)]
        return paths or (["the commit"] if self.extra != other.extra else [])


class Directory:
    """A directory that is a workspace; its methods raise `WorkspaceError`.

    `limit`: of the size of its files, bytes. `exclude`: patterns as in `.gitignore`.
    """

    def __init__(self, root: Path, *, limit: int, exclude: Sequence[str] = ()) -> None:
        if not root.is_dir():
            raise WorkspaceError(f"there is no directory {root}")
        self.root = root
        self._limit = limit
        self._ignored = Ignored(root, exclude)
        self._repository = Repository.of(root)

    def look(self) -> State:
        """What it holds now, without files that may change without a change of their time."""
        for _ in range(_TICKS):
            state = self._look()
            if not _may_change_unseen(state.listing):
                break
            time.sleep(_TICK_SECONDS)
        state.listing.check(self._limit)
        return state

    def pack(self, target: IO[bytes], state: State | None = None) -> tuple[Packed, State]:
        """Writes the archive into a file that is open for writing.

        What is packed comes from one time: if anything changes meanwhile, all is packed again.
        `state`: what a look has found before. Also raises `OSError`, for `target`.
        """
        changed: list[str] = []
        for left in reversed(range(_TRIES)):
            state = state or self.look()
            target.seek(0)
            target.truncate()
            sha256 = _write(self.root, state, target)
            changed = state.differing(self._look())
            if sha256 is not None and not changed:
                listing = state.listing
                size = target.tell()
                return Packed(sha256, size, listing.files, listing.bytes, listing.notes), state
            state = None
            if left:
                time.sleep(_PAUSE_SECONDS)
        names = ", ".join(sorted(changed)[:_NAMED]) or "a file"
        raise WorkspaceError(
            f"{names} changed each time that the workspace was packed: stop what writes there, or "
            f"name it in {IGNORE_FILE}"
        )

    def _look(self) -> State:
        if self._repository is None:
            return State(list_members(self.root, self._ignored), {})
        tree = self._repository.tree()
        listing = list_members(self.root, self._ignored, self._repository, tree)
        said, patch = self._repository.describe(tree, lambda path: not self._ignored.by_rules(path))
        extra = {GIT: json.dumps(said, indent=2).encode(), PATCH: patch}
        return State(listing, {name: data for name, data in extra.items() if data})


def pack(root: Path, target: IO[bytes], *, limit: int, exclude: Sequence[str] = ()) -> Packed:
    """Writes the archive of a directory; see `Directory`."""
    return Directory(root, limit=limit, exclude=exclude).pack(target)[0]


def _may_change_unseen(listing: Listing) -> bool:
    times = [member.version[1] for member in listing.members.values()]
    is_coarse = all(at % 10**9 == 0 for at in times)
    age = time.time() - max(times, default=0) / 1e9
    return 0 <= age < (_LONG_TICK_SECONDS if is_coarse else _TICK_SECONDS)


def _write(root: Path, state: State, target: IO[bytes]) -> str | None:
    """Writes the archive and returns its SHA-256; None if a file has changed."""
    hashing = _Hashing(target)
    with (
        gzip.GzipFile("", "wb", _LEVEL, cast(IO[bytes], hashing), mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path, member in state.listing.members.items():
            if not _add(tar, root, path, member):
                return None
        for name, data in state.extra.items():
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
