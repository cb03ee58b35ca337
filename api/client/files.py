"""Downloads files of a run: in parallel, only those that are new, and from where it stopped."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import posixpath
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import quote

from api.client.transport import ApiError, Transport, Unreachable
from api.schemas import Artifact, ArtifactLink

_AT_ONCE = 8
# Parts of files are kept here, below the directory that they are for, until they are whole.
PARTS = ".spectrain-fetch"
OnProgress = Callable[[int, int], None]


class Fetching:
    """Downloads files of one run into a directory.

    `on_progress` is called, by several threads one after the other, with the bytes that have come
    and those of all files that are new.
    """

    def __init__(
        self,
        http: Transport,
        job_id: str,
        directory: Path,
        on_progress: OnProgress = lambda *_: None,
    ) -> None:
        self._http = http
        self._job_id = job_id
        self._directory = directory
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._come = self._total = 0

    def fetch(self, files: Sequence[Artifact]) -> list[Path]:
        """Fetches the files; the paths of all that are there then, in their order.

        A file that exists with the size and the time that the service lists is not asked for. One
        that the run has no more is left out.
        """
        targets = [self._target(file.path) for file in files]
        new = [
            (file, target)
            for file, target in zip(files, targets, strict=True)
            if not _is_there(file, target)
        ]
        self._total = sum(file.size for file, _ in new)
        self._count(0)
        gone = set[Path]()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                for target, found in zip(
                    (target for _, target in new), pool.map(self._fetch, new), strict=True
                ):
                    if not found:
                        gone.add(target)
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        _remove_parts(self._directory / PARTS)
        return [target for target in targets if target not in gone]

    def link(self, links: Sequence[ArtifactLink]) -> list[Path]:
        """Makes the links anew, but for those that lead out of the run."""
        return [self._link(link) for link in links if _stays_inside(link)]

    def _fetch(self, item: tuple[Artifact, Path]) -> bool:
        """Fetches one file; whether the run has it."""
        file, target = item
        with self._part(file) as part:
            before = part.seek(0, os.SEEK_END)
            self._count(before)
            if before < file.size or not file.size:
                try:
                    self._http.download(
                        "/".join(["/v1/jobs", quote(self._job_id, safe=""), "artifacts",
                                  quote(file.path)]),
                        part, Path(f"{part.name}.etag"), self._on_bytes,
                    )  # fmt: skip
                except ApiError as error:
                    if error.status != 404:
                        raise
                    return False
            part.flush()
            # The time of the listing: a file that changed since then is fetched again next time.
            os.utime(part.fileno(), (file.modified, file.modified))
            target.parent.mkdir(parents=True, exist_ok=True)
            Path(part.name).replace(target)
        return True

    @contextlib.contextmanager
    def _part(self, file: Artifact) -> Iterator[IO[bytes]]:
        """What there is of a file already, open and locked."""
        version = f"{self._job_id}\0{file.path}\0{file.size}\0{file.modified}"
        name = hashlib.sha256(version.encode()).hexdigest()[:32]
        folder = self._directory / PARTS
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("ab+") as part:
            if _locked(part):
                yield part
                return
        # Somebody else fetches the same into the same directory.
        with (folder / f"{name}-{secrets.token_hex(4)}").open("ab+") as part:
            _locked(part)
            yield part

    def _on_bytes(self, count: int) -> None:
        if self._stop.is_set():
            raise InterruptedError("another download has failed")
        self._count(count)

    def _count(self, count: int) -> None:
        with self._lock:
            self._come += count
            self._on_progress(self._come, self._total)

    def _target(self, path: str) -> Path:
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts:
            raise Unreachable(self._http.url, ValueError(f"the file name {path!r} is not allowed"))
        return self._directory / parts

    def _link(self, link: ArtifactLink) -> Path:
        place = self._target(link.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
        temporary.symlink_to(link.target)
        try:
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
        return place


def save_whole(http: Transport, path: str, target: Path) -> Path:
    """Saves an answer as a file, which appears complete or not at all."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        http.save(path, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _is_there(file: Artifact, target: Path) -> bool:
    """Whether a file is here as the service lists it."""
    try:
        found = target.stat()
    except OSError:
        return False
    return (
        target.is_file()
        and found.st_size == file.size
        and abs(found.st_mtime - file.modified) < 1e-3
    )


def _stays_inside(link: ArtifactLink) -> bool:
    """Whether a link leads to something below the directory of its run."""
    place = posixpath.join(posixpath.dirname(link.path), link.target)
    return not posixpath.normpath(place).startswith(("/", ".."))


def _locked(file: IO[bytes]) -> bool:
    """Locks an open file, unless another process has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _remove_parts(folder: Path) -> None:
    """Removes parts that nobody works at: of files that have changed, or are gone."""
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            with path.open("rb") as part:
                if _locked(part):
                    path.unlink()
        folder.rmdir()
