"""The directory of one attempt on a local disk: where the child writes, and what it starts from."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jobs.model.record import is_job_id
from monitoring.checkpoints import commit
from monitoring.paths import RunPaths

# What lies in an attempt's directory beside its run.
_NAMES = {"workspace", "output", "steps", "train.json", "adoptions"}


@dataclass(frozen=True)
class Scratch:
    """The places of an attempt's files below `base`."""

    base: Path
    job_id: str
    attempt: int

    @property
    def root(self) -> Path:
        """All of them."""
        return self.base / self.job_id / str(self.attempt)

    @property
    def run(self) -> RunPaths:
        """The run directory that the child sees, named as in storage: plots show its name."""
        return RunPaths(self.root / self.job_id)

    @property
    def workspace(self) -> Path:
        """The working directory of a job with a command of its own."""
        return self.root / "workspace"

    @property
    def output(self) -> Path:
        """What the child prints, before its lines are marked."""
        return self.root / "output"

    @property
    def steps(self) -> Path:
        """The child's step counter."""
        return self.root / "steps"

    @property
    def adoptions(self) -> Path:
        """Commit records of checkpoints that the child writes without."""
        return self.root / "adoptions"

    @property
    def train_config(self) -> Path:
        """The settings of the built-in workload."""
        return self.root / "train.json"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The empty directories, for as long as this process works in them; raises `OSError`.

        They are locked meanwhile, so that nobody takes them for what a killed worker left.
        """
        shutil.rmtree(self.root, ignore_errors=True)
        lock = _make_locked(self.root)
        try:
            self.empty()
            yield
        finally:
            shutil.rmtree(self.root, ignore_errors=True)
            with contextlib.suppress(OSError):  # another attempt is in it
                self.root.parent.rmdir()
            os.close(lock)

    def empty(self) -> None:
        """Makes the directories anew; raises `OSError`."""
        for left in self.root.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        run = self.run
        for directory in (self.workspace, run.checkpoints, run.logs, run.visualizations):
            directory.mkdir(parents=True)


def _make_locked(root: Path) -> int:
    """A descriptor that locks the directory `root`, made just now.

    Another worker that tidies up may remove it before it is locked; then it is made again.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            root.mkdir(parents=True, exist_ok=True)
            lock = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if root.exists() and os.fstat(lock).st_ino == root.stat().st_ino:
                return lock
            os.close(lock)


def remove_left_behind(scratch_dir: Path) -> None:
    """Removes the scratch directories of workers that were killed on this machine.

    And nothing else that may lie there: the directory may be a whole disk with much on it.
    """
    jobs = [path for path in scratch_dir.glob("*/") if is_job_id(path.name)]
    for root in (path for job in jobs for path in job.glob("*/")):
        with contextlib.suppress(OSError):  # in use, somebody else's, or removed by another worker
            if not _is_ours(root):
                continue
            lock = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(root, ignore_errors=True)
            finally:
                os.close(lock)
    for job in jobs:
        with contextlib.suppress(OSError):  # another attempt is in it
            job.rmdir()


def _is_ours(root: Path) -> bool:
    """Whether a directory is that of an attempt, whole or as far as it was made or removed."""
    run = root.parent.name
    names = {path.name for path in root.iterdir()}
    return root.name.isdigit() and (run in names or names <= _NAMES)


class ScratchCleaner:
    """Removes what was left behind on this machine, again and again, in a thread of its own.

    Once at the start would not do: the training process of a killed worker may live for a moment
    longer, while its guard or the machine stands still, and it makes its directories anew.
    """

    def __init__(self, scratch_dir: Path, *, seconds: float) -> None:
        self._scratch_dir = scratch_dir
        self._seconds = seconds
        self._stopping = threading.Event()

    def start(self) -> None:
        """Removes at once what is there, and goes on."""
        threading.Thread(target=self._run, name="scratch-cleaner", daemon=True).start()

    def stop(self) -> None:
        """Removes nothing more, but for what is being removed."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            remove_left_behind(self._scratch_dir)
            self._stopping.wait(self._seconds)


@dataclass(frozen=True)
class Version:
    """What tells one content of a file from the next."""

    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> Version:
        """The version that lies at `path` now; raises `FileNotFoundError`."""
        status = path.stat()
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Restored:
    """What an attempt starts from: its checkpoint's record, and all files as storage has them.

    Older checkpoints may have been left in storage: where they would lie here, and their records.
    Checkpoints that were `adopted` are here without the records that storage has of them.
    `last_step` is that of the last row of the metrics, which may be later than the checkpoint.
    """

    checkpoint: commit.CommitRecord | None
    files: dict[Path, Version]
    links: dict[Path, str]
    left: dict[Path, commit.CommitRecord] = field(default_factory=dict)
    last_step: int | None = None
    adopted: dict[Path, commit.CommitRecord] = field(default_factory=dict)
