"""What a place of inputs gives: a listing of its files, each with a version, and their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

from jobs.errors import SpectrainError

# An item takes some 300 bytes of memory. ImageNet has 1.3 million files.
MOST_FILES = 2_000_000
UNKNOWN = -1
_MAX_NAME, _MAX_PATH = 255, 3000  # bytes; the path of the cache comes before it


class InputError(SpectrainError):
    """The input cannot be had as the job names it; another attempt would not get it either."""


class InputChangedError(SpectrainError):
    """The input changed while it was fetched; another attempt may get it."""


class Check(Protocol):
    """Called often, by any thread: with the bytes that came, and ends a call by raising.

    A negative number takes back what must be fetched again.
    """

    def __call__(self, size: int = 0) -> None:
        """Notes `size` more bytes."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file of an input: its path within it, its size in bytes, and what tells its contents apart.

    A path that ends with `/` is a folder. `size` is `UNKNOWN` if the source does not tell it.
    """

    path: str
    size: int
    version: str

    @property
    def is_folder(self) -> bool:
        """Whether it stands for a folder."""
        return self.path.endswith("/")


@dataclass(frozen=True)
class Listing:
    """All that an input has; `is_file`: it is one file, rather than a folder with one."""

    items: tuple[Item, ...]
    is_file: bool

    @classmethod
    def of(cls, items: Iterable[Item], url: str, *, is_file: bool = False) -> Listing:
        """The listing of items that can all be files of one directory; raises `InputError`."""
        listing = cls(tuple(islice(items, MOST_FILES + 1)), is_file)
        if len(listing.items) > MOST_FILES:
            raise InputError(
                f"{url} has more than {MOST_FILES:,} files: pack them into archives, or name a "
                "folder of it"
            )
        if not listing.files:
            raise InputError(f"there is no file at {url}")
        for item in listing.items:
            _check_path(item.path, url)
        listing._check_places(url)
        return listing

    @property
    def size(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(item.size for item in self.items if item.size > 0)

    @property
    def files(self) -> int:
        """How many files it has."""
        return sum(not item.is_folder for item in self.items)

    @cached_property
    def folders(self) -> frozenset[str]:
        """The paths of all folders, without a `/` at the end."""
        found: set[str] = set()
        for item in self.items:
            folder = item.path.rpartition("/")[0]
            while folder and folder not in found:
                found.add(folder)
                folder = folder.rpartition("/")[0]
        return frozenset(found)

    @cached_property
    def version(self) -> str:
        """SHA-256 over names, sizes and versions, in hexadecimal: the same for the same content."""
        whole = hashlib.sha256(b"file\0" if self.is_file else b"folder\0")
        for item in sorted(self.items, key=lambda item: item.path):
            for part in (item.path, str(item.size), item.version):
                whole.update(os.fsencode(part) + b"\0")
        return whole.hexdigest()

    def _check_places(self, url: str) -> None:
        seen: set[str] = set()
        for item in self.items:
            if item.path in seen:
                raise InputError(f"{url} has {item.path!r} twice")
            if item.path in self.folders:
                raise InputError(f"{url} has {item.path!r} both as a file and as a folder")
            seen.add(item.path)


class Source(Protocol):
    """Where an input lies.

    Both methods raise `InputError` if the job is to blame, `OSError` and `StorageError` for an
    outage, and what `check` raises. Another thread may be in them at the same time.
    """

    @property
    def url(self) -> str:
        """Its URL, as people may see it."""

    @property
    def place(self) -> str:
        """The place of which a version speaks: the same version elsewhere is another content."""

    def list(self, check: Check) -> Listing:
        """The present files."""

    def fetch(self, item: Item, target: Path, check: Check) -> None:
        """Writes a listed file to `target`, which does not exist.

        Raises `InputChangedError` if it is no longer the listed one.
        """


def changed(url: str, path: str) -> InputChangedError:
    """The error for a file that is no longer the listed one."""
    return InputChangedError(f"{path!r} of {url} changed while it was fetched")


def _check_path(path: str, url: str) -> None:
    parts = path.removesuffix("/").split("/")
    if path.startswith("/") or not {"", ".", ".."}.isdisjoint(parts) or "\0" in path:
        raise InputError(f"{url} has {path!r}, which is no path within a directory: rename it")
    if len(os.fsencode(path)) > _MAX_PATH or any(len(os.fsencode(n)) > _MAX_NAME for n in parts):
        raise InputError(f"{url} has {path[:80]!r}…, a name too long for a file: rename it")
