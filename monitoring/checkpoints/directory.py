"""The directory of a run's checkpoints: what is committed there, what is kept, what is newest."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from monitoring.checkpoints import commit
from monitoring.checkpoints.commit import CheckpointCorrupt, CommitRecord
from monitoring.checkpoints.file import ChecksummedFile
from monitoring.files import TEMPORARY, is_left, link_atomically
from monitoring.paths import RunPaths, step_of

logger = logging.getLogger(__name__)


class CheckpointDirectory:
    """Commits checkpoints, keeps the `keep` newest and the one marked best.

    Several threads and processes may use one directory; what is under way in one of them is left
    alone by the others.
    """

    def __init__(self, paths: RunPaths, keep: int) -> None:
        self.paths = paths
        self._keep = keep
        self._attempt = int(os.environ.get("SPECTRAIN_ATTEMPT") or 0)
        self._lock = threading.Lock()  # of the two below, never held while the disk works
        self._doomed: set[Path] = set()  # being removed
        self._best: Path | None = None  # to be marked as soon as it is committed
        self._links_fail = False

    def commit(self, path: Path, draft: Path, file: ChecksummedFile, seconds: float) -> None:
        """Publish a synced draft, point `latest` at it and retire old ones. Raises OSError.

        `seconds` are those that the save took.
        """
        step = step_of(path)
        assert step is not None  # noqa: S101
        with _locked(path.parent):
            newest = max((record.time for record, _ in self.committed()), default=0.0)
            # Later than all before it, whatever the clock of this machine says.
            moment = max(time.time(), newest + 1e-3)
            commit.publish(
                draft,
                path,
                CommitRecord(
                    step, file.size, file.checksum, self._attempt, moment, seconds, self._keep
                ),
            )
            # It counts from here on: what fails below takes nothing away from it.
            self._point(self.paths.latest_checkpoint, path)
            self._mark_wanted()
            self._retire()

    def mark_best(self, step: int, *, saving: Path | None) -> None:
        """Keep the checkpoint of a step until another is marked; `saving` is one under way."""
        path = self.paths.checkpoint(step)
        with self._lock:
            there = path == saving or any(found == path for _, found in self.committed())
            if not there or path in self._doomed:
                logger.warning("%s is not there and cannot be marked best", path)
                return
            self._best = path
        if saving is None:
            self._mark_wanted()

    def committed(self) -> list[tuple[CommitRecord, Path]]:
        """The committed checkpoints by step, lowest first."""
        return commit.committed(self.paths.checkpoints)

    def newest_first(self) -> Iterator[Path]:
        """Every checkpoint file, those without a readable record first: they may be newest."""

        def age(path: Path) -> float:
            try:
                return -commit.read(path).time
            except (CheckpointCorrupt, OSError):
                return -float("inf")

        files = self.paths.checkpoints.glob("checkpoint_step_*.pt")
        yield from sorted((path for path in files if step_of(path) is not None), key=age)

    def set_aside(self, path: Path, cause: str) -> None:
        """Rename a damaged checkpoint to `….corrupt`, with a warning."""
        try:
            aside = commit.set_aside(path).name
        except OSError as error:
            aside = f"where it is ({error})"
        logger.warning("Failed to load checkpoint from %s: %s; kept as %s", path, cause, aside)

    def point_latest(self, path: Path, older: Collection[Path]) -> None:
        """Let `latest` be this checkpoint, unless it is one that came after these `older` ones."""
        link = self.paths.latest_checkpoint
        if _target(link) == path.name:
            return
        with contextlib.suppress(OSError), _locked(path.parent):  # another process may save
            newer = _target(link) not in {other.name for other in older} and link.exists()
            if path.exists() and not newer:
                self._point(link, path)

    def _mark_wanted(self) -> None:
        with self._lock:
            best = self._best
        if best is not None and best.exists():
            self._point(self.paths.best_checkpoint, best)
            with self._lock:
                if self._best == best:
                    self._best = None

    def _point(self, link: Path, checkpoint: Path) -> None:
        try:
            link_atomically(link, checkpoint.name)
        except OSError as error:  # a file system without links: the records tell as well
            if not self._links_fail:
                logger.warning("Cannot point %s at %s: %s", link, checkpoint.name, error)
            self._links_fail = True

    def _retire(self) -> None:
        """Remove the oldest ones beyond those to keep, and what killed processes left."""
        by_age = sorted(self.committed(), key=lambda found: found[0].time, reverse=True)
        with self._lock:
            best = {_target(self.paths.best_checkpoint), self._best and self._best.name}
            self._doomed = {path for _, path in by_age[self._keep :] if path.name not in best}
            doomed = self._doomed
        for path in doomed:
            commit.discard(path)
        with self._lock:
            self._doomed = set()
        for draft in self.paths.checkpoints.glob(f".*{TEMPORARY}"):
            if is_left(draft):
                draft.unlink(missing_ok=True)


def _target(link: Path) -> str | None:
    try:
        return str(link.readlink())
    except OSError:
        return None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """The directory, for one thread of one process at a time where its file system has locks."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
