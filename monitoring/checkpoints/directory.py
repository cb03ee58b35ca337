"""The checkpoint directory of a run: commits, retention and order."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from monitoring.checkpoints import adoption, commit
from monitoring.checkpoints.adoption import Judged, link_target
from monitoring.checkpoints.commit import CheckpointCorrupt, CommitRecord
from monitoring.checkpoints.file import ChecksummedFile
from monitoring.checkpoints.torch_file import looks_whole
from monitoring.files import TEMPORARY, is_left, link_atomically, locked
from monitoring.paths import RunPaths, step_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Present:
    """A checkpoint in the directory: its step, path, bytes and time (since the epoch)."""

    step: int
    path: Path
    size: int
    time: float


class CheckpointDirectory:
    """Commits checkpoints, and keeps the `keep` newest ones and the one marked best.

    Several threads and processes may use one directory. None of them removes a file that another
    is writing.
    """

    def __init__(self, paths: RunPaths, keep: int) -> None:
        self.paths = paths
        self._keep = keep
        self._attempt = int(os.environ.get("SPECTRAIN_ATTEMPT") or 0)
        self._lock = threading.Lock()  # of the two below; never held during disk operations
        self._doomed: set[Path] = set()  # being removed
        self._best: Path | None = None  # marked as soon as it is committed
        self._links_fail = False

    def commit(self, path: Path, draft: Path, file: ChecksummedFile, seconds: float) -> None:
        """Publish a synced draft, point `latest` at it and remove old checkpoints.

        `seconds` is the duration of the save. Raises OSError.
        """
        step = step_of(path)
        assert step is not None  # noqa: S101
        with locked(path.parent):
            newest = max((record.time for record, _ in self.committed()), default=0.0)
            # Later than all earlier ones, even if the clock of this machine was set back.
            moment = max(time.time(), newest + 1e-3)
            commit.publish(
                draft,
                path,
                CommitRecord(
                    step, file.size, file.checksum, self._attempt, moment, seconds, self._keep
                ),
            )
            # The checkpoint is committed: a failure below does not undo that.
            self._point(self.paths.latest_checkpoint, path)
            self._mark_wanted()
            self._retire()

    def mark_best(self, step: int, *, saving: Path | None) -> None:
        """Keep a step's checkpoint until another is marked; `saving` is the one in progress."""
        path = self.paths.checkpoint(step)
        with self._lock:
            there = path == saving or any(found.path == path for found in self.present())
            if not there or path in self._doomed:
                logger.warning("Cannot mark %s best: there is no such checkpoint", path)
                return
            self._best = path
        if saving is None:
            self._mark_wanted()

    def committed(self) -> list[tuple[CommitRecord, Path]]:
        """The committed checkpoints by step."""
        return commit.committed(self.paths.checkpoints)

    def present(self) -> list[Present]:
        """The committed checkpoints, and files of other programs that look whole; by step."""
        committed = [
            Present(record.step, path, record.size, record.time)
            for record, path in self.committed()
        ]
        known = {found.path for found in committed}
        others = []
        for path in self._files():
            with contextlib.suppress(OSError):
                if path not in known and not commit.has_record(path) and looks_whole(path):
                    status = path.stat()
                    step = step_of(path) or 0
                    others.append(Present(step, path, status.st_size, status.st_mtime))
        return sorted(committed + others, key=lambda found: found.step)

    def newest_first(self) -> list[Path]:
        """Every checkpoint file, the newest first.

        Those whose record cannot be read come first: they may be newest. The rest is in the order
        of its records. A file without a record is newest if `latest` points at it; other such
        files come last, the highest step first, as the specification's first implementation has it:
        the time of a file's last change is often that of a copy.
        """
        target = link_target(self.paths.latest_checkpoint)

        def age(path: Path) -> tuple[int, float]:
            try:
                return 2, -commit.claimed(path).time
            except FileNotFoundError:
                return (1, 0.0) if path.name == target else (3, -(step_of(path) or 0))
            except (CheckpointCorrupt, OSError):
                return 0, 0.0

        return sorted(self._files(), key=age)

    def adopt(self, path: Path, judged: Judged) -> None:
        """Write the record of a file that another program wrote; it keeps its place in the order.

        A directory in which nothing can be written is left as it is.
        """
        others = [record.time for record, other in self.committed() if other != path]
        time = judged.time
        if others and not commit.has_record(path):
            if path.name == link_target(self.paths.latest_checkpoint):
                time = max(time, max(others) + 1e-3)
            else:
                time = min(time, min(others) - 1e-3)
        try:
            if adoption.adopt(path, judged, time=time) is not None:
                logger.info("Adopted %s, which another program wrote", path)
        except OSError as error:
            logger.info("Cannot write a commit record for %s: %s", path, error)

    def _files(self) -> list[Path]:
        files = self.paths.checkpoints.glob("checkpoint_step_*.pt")
        return [path for path in files if step_of(path) is not None]

    def set_aside(self, path: Path, cause: str) -> None:
        """Rename a damaged checkpoint to `….corrupt`, with a warning."""
        try:
            aside = commit.set_aside(path).name
        except OSError as error:
            aside = f"{path.name} (cannot rename it: {error})"
        logger.warning("Failed to load checkpoint from %s: %s; kept as %s", path, cause, aside)

    def point_latest(self, path: Path, older: Collection[Path]) -> None:
        """Point `latest` at this checkpoint, unless it points at one that is not among `older`."""
        link = self.paths.latest_checkpoint
        if link_target(link) == path.name:
            return
        with contextlib.suppress(OSError), locked(path.parent):  # another process may save
            newer = link_target(link) not in {other.name for other in older} and link.exists()
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
        except OSError as error:  # a file system without links; the records give the order
            if not self._links_fail:
                logger.warning("Cannot point %s at %s: %s", link, checkpoint.name, error)
            self._links_fail = True

    def _retire(self) -> None:
        """Remove checkpoints beyond those to keep, and the drafts of killed processes."""
        by_age = sorted(self.committed(), key=lambda found: found[0].time, reverse=True)
        with self._lock:
            best = {link_target(self.paths.best_checkpoint), self._best and self._best.name}
            self._doomed = {path for _, path in by_age[self._keep :] if path.name not in best}
            doomed = self._doomed
        for path in doomed:
            commit.discard(path)
        with self._lock:
            self._doomed = set()
        for draft in self.paths.checkpoints.glob(f".*{TEMPORARY}"):
            if is_left(draft):
                draft.unlink(missing_ok=True)
