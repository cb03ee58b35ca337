"""Fetches the inputs of a job into the cache of this machine, where jobs share them.

An entry is named by the listing of its source, so that asking for the listing tells whether this
machine has the present content. It holds:

    content/      the files, or the one file, which nobody may write to
    input.json    how many files and bytes they are
"""

from __future__ import annotations

import hashlib
import json
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jobs.settings import Settings
from worker.cache.cache import Building, Cache, Held, Unwanted
from worker.inputs.open import open_source
from worker.inputs.source import InputChangedError, Item, Listing, Source, changed
from worker.inputs.threads import in_threads

KIND = "input"
_CONTENT, _RECORD = "content", "input.json"
_THREADS = 8
_TRIES = 3
_PROGRESS_SECONDS = 0.5
_DISK_BLOCK = 4096


@dataclass(frozen=True)
class Fetched:
    """An input in the cache, at `path`, a file or a directory, while it is `held`.

    `built`: it was fetched for this holder.
    """

    held: Held
    path: Path
    version: str
    bytes: int
    files: int
    built: bool


class _AbsentError(Exception):
    """This machine does not have it."""


def fetch_input(
    cache: Cache,
    url: str,
    settings: Settings,
    *,
    version: str | None = None,
    user: int | None = None,
    wanted: Callable[[], bool] = lambda: True,
    on_wait: Callable[[], None] = lambda: None,
    on_progress: Callable[[int, int], None] = lambda _, __: None,
) -> Fetched | None:
    """The input at a URL, fetched unless this machine has it; None once it is not `wanted`.

    `version`: to be preferred; if this machine has it, its source is not asked. Otherwise the
    result has the present one. `user`: whose rights count on a disk. `on_wait` is called once if
    another process fetches it, `on_progress` now and then with the bytes that are there and those
    of all.

    Raises `InputError` if the job is to blame, `InputChangedError`, `CacheFullError`, and
    `OSError` and `StorageError` for an outage.
    """
    fetch = _Fetch(cache, open_source(url, settings, user), wanted, on_wait, on_progress)
    try:
        if version is not None and (found := fetch.kept(version)) is not None:
            return found
        return fetch.present()
    except Unwanted:
        return None


class _Fetch:
    def __init__(
        self,
        cache: Cache,
        source: Source,
        wanted: Callable[[], bool],
        on_wait: Callable[[], None],
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._cache = cache
        self._source = source
        self._wanted = wanted
        self._on_wait = on_wait
        self._on_progress = on_progress

    def kept(self, version: str) -> Fetched | None:
        """A version that this machine has, or another worker fetches; None if it has not."""

        def build(_: Building) -> None:
            raise _AbsentError

        try:
            return self._used(version, build, 0)
        except _AbsentError:
            return None

    def present(self) -> Fetched:
        """The present version."""
        tries = 0
        while True:
            try:
                listing = self._list()
                build = partial(self._build, listing)
                return self._used(listing.version, build, _room(listing))
            except InputChangedError:
                tries += 1
                if tries == _TRIES:
                    raise

    def _used(self, version: str, build: Callable[[Building], None], size: int) -> Fetched:
        """The entry of a version; raises `Unwanted`."""
        named = json.dumps([self._source.place, version])
        held = self._cache.use(
            KIND,
            hashlib.sha256(named.encode()).hexdigest(),
            build,
            durable=False,  # it is fetched again after a loss of power
            size=size,
            wanted=self._wanted,
            on_wait=self._on_wait,
        )
        if held is None:
            raise Unwanted
        try:
            record = json.loads((held.path / _RECORD).read_bytes())
            path = held.path / _CONTENT / record["file"]
            return Fetched(held, path, version, record["bytes"], record["files"], held.built)
        except BaseException:
            held.close()
            raise

    def _list(self) -> Listing:
        found: list[Listing] = []
        ended = threading.Event()

        def check(size: int = 0) -> None:
            if ended.is_set():
                raise Unwanted

        in_threads(lambda: found.append(self._source.list(check)), 1, ended, self._watch)
        return found[0]

    def _watch(self) -> None:
        if not self._wanted():
            raise Unwanted

    def _build(self, listing: Listing, building: Building) -> None:
        content = building.path / _CONTENT
        content.mkdir()
        folders = [content, *(content / folder for folder in sorted(listing.folders))]
        for folder in folders[1:]:
            folder.mkdir()
        # Of this build alone: a thread may be left behind, and must not meet the next build.
        drafts = Path(tempfile.mkdtemp(prefix="drafts-", dir=building.path))
        size = _Files(self._source, listing, drafts, content).fetch(self._watch, self._on_progress)
        if self._list().version != listing.version:
            raise InputChangedError(f"{self._source.url} changed while it was fetched")
        drafts.rmdir()
        for folder in folders:
            folder.chmod(0o555)
        name = listing.items[0].path if listing.is_file else ""
        record = {"file": name, "files": listing.files, "bytes": size}
        (building.path / _RECORD).write_text(json.dumps(record))


class _Files:
    """The files of a listing, fetched by a few threads."""

    def __init__(self, source: Source, listing: Listing, drafts: Path, content: Path) -> None:
        self._source = source
        self._drafts = drafts
        self._content = content
        self._files = (item for item in listing.items if not item.is_folder)
        self._count = listing.files
        self._total = listing.size
        self._number = 0  # of the last file that was begun
        self._come = self._size = 0  # bytes, and those of whole files
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def fetch(self, watch: Callable[[], None], on_progress: Callable[[int, int], None]) -> int:
        """Fetches them all, and returns their bytes; `watch` ends it by raising."""
        told_at = time.monotonic()

        def watch_and_tell() -> None:
            nonlocal told_at
            watch()
            if time.monotonic() - told_at > _PROGRESS_SECONDS:
                told_at = time.monotonic()
                come = max(0, self._come)
                on_progress(come, max(come, self._total))

        in_threads(self._work, min(_THREADS, self._count), self._ended, watch_and_tell)
        on_progress(self._size, self._size)
        return self._size

    def _check(self, size: int = 0) -> None:
        if self._ended.is_set():
            raise Unwanted
        with self._lock:
            self._come += size

    def _work(self) -> None:
        while (found := self._next()) is not None:
            item, draft = found
            self._check()
            self._source.fetch(item, draft, self._check)
            status = draft.stat()
            size = status.st_size
            if item.size > 0 and item.size != size:  # else it is not known, or that of a link
                raise changed(self._source.url, item.path)
            draft.chmod(0o555 if status.st_mode & stat.S_IXUSR else 0o444)
            draft.rename(self._content / item.path)
            with self._lock:
                self._size += size

    def _next(self) -> tuple[Item, Path] | None:
        with self._lock:
            item = next(self._files, None)
            self._number += 1
            return None if item is None else (item, self._drafts / str(self._number))


def _room(listing: Listing) -> int:
    """The bytes that its files and folders take on a disk, as far as their sizes are known."""
    blocks = sum(-(-item.size // _DISK_BLOCK) for item in listing.items if item.size > 0)
    return (blocks + len(listing.folders)) * _DISK_BLOCK
