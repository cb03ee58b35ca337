"""The entries of a cache on disk: where they lie, which of them count, and their removal.

    {root}/{kind}/{key}/       the content, for example `workspace/9f86d08188…/`
    {root}/{kind}/{key}.json   written last: without it the content does not count
    {root}/{kind}/{key}.lock   locked by those who build, use or remove the entry

An entry is built at its final place, since an environment knows its own path. The lock file's time
of change is the time of the last use.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from machine.trees import remove_tree
from monitoring.files import sync_all, temporary, write_atomically

_KIND = re.compile(r"[a-z]{1,32}")
_KEY = re.compile(r"[0-9a-f]{16,128}")
_SUFFIXES = (".json", ".lock")


@dataclass(frozen=True)
class Entry:
    """One entry below the `root` of a cache; raises `ValueError` for a bad kind or key."""

    root: Path
    kind: str
    key: str

    def __post_init__(self) -> None:
        if not _KIND.fullmatch(self.kind) or not _KEY.fullmatch(self.key):
            raise ValueError(f"{self.kind!r} and {self.key!r} name no entry of a cache")

    @property
    def path(self) -> Path:
        """The directory of the content."""
        return self.root / self.kind / self.key

    @property
    def _record(self) -> Path:
        return self.path.with_name(f"{self.key}.json")

    @property
    def _lock(self) -> Path:
        return self.path.with_name(f"{self.key}.lock")

    def size(self) -> int | None:
        """The bytes that the entry takes on disk; None unless it is whole.

        What was not synced counts only until the machine starts anew.
        """
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(self._record.read_bytes())
            if record["boot"] in {"", boot_id()}:
                return int(record["bytes"])
        return None

    def last_use(self) -> float:
        """When somebody began or ended to use it, seconds since the epoch; 0 if nobody has."""
        with contextlib.suppress(OSError):
            return self._lock.stat().st_mtime
        return 0.0

    def note_use(self) -> None:
        """Notes that somebody begins to use it."""
        with contextlib.suppress(OSError):
            os.utime(self._lock)

    def open_lock(self) -> int:
        """A descriptor of the lock file, which is made if it is missing; raises `OSError`."""
        while True:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # the folder was removed meanwhile
                return os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def has_lock(self, descriptor: int) -> bool:
        """Whether a descriptor is that of the present lock file: an older one was removed."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), self._lock.stat())
        return False

    def empty(self) -> None:
        """Makes the content an empty directory that does not count; raises `OSError`."""
        self.clear()
        self.path.mkdir()

    def clear(self) -> None:
        """Removes the content; raises `OSError`."""
        self._record.unlink(missing_ok=True)
        remove_tree(self.path)

    def complete(self, *, durable: bool) -> None:
        """Makes the content count; raises `OSError`.

        `durable`: also after the machine has lost its power. That costs a sync of its disk.
        """
        boot = boot_id()
        if durable or not boot:
            sync_all([path for path in _walk(self.path) if not path.is_symlink()])
            boot = ""
        size = sum(path.lstat().st_blocks * 512 for path in _walk(self.path))
        record = json.dumps({"bytes": size, "boot": boot}).encode()
        if not boot:
            write_atomically(self._record, record)
            return
        draft = temporary(self._record)
        draft.write_bytes(record)
        draft.replace(self._record)

    def remove(self) -> None:
        """Removes the entry, whose lock the caller holds alone; raises `OSError`."""
        self.clear()
        self._lock.unlink(missing_ok=True)

    @contextlib.contextmanager
    def removable(self) -> Iterator[bool]:
        """Holds the entry's lock alone; gives False if somebody has it."""
        descriptor = self.open_lock()
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield self.has_lock(descriptor)
        finally:
            os.close(descriptor)


def entries(root: Path) -> list[Entry]:
    """All entries below the root of a cache, those included of which only a part is there."""
    found = set()
    for path in root.glob("*/*"):
        key = path.name
        for suffix in _SUFFIXES:
            key = key.removesuffix(suffix)
        with contextlib.suppress(ValueError):
            found.add(Entry(root, path.parent.name, key))
    return sorted(found, key=lambda entry: (entry.kind, entry.key))


def let_read(path: Path) -> None:
    """Lets all users read what this user has at `path` and below; raises `OSError`."""
    for each in (path, *_walk(path)):
        status = each.lstat()
        if status.st_uid != os.geteuid() or stat.S_ISLNK(status.st_mode):
            continue
        runs = stat.S_ISDIR(status.st_mode) or status.st_mode & stat.S_IXUSR
        each.chmod(stat.S_IMODE(status.st_mode) | (0o555 if runs else 0o444))


def _walk(root: Path) -> Iterator[Path]:
    """All that is below a directory, folders before what is in them."""
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as found:
            for item in found:
                path = Path(item.path)
                if item.is_dir(follow_symlinks=False):
                    folders.append(path)
                yield path


@cache
def boot_id() -> str:
    """What identifies the time since the machine started; '' if the kernel does not say."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
