"""The scratch directory of an attempt on a local disk, where its child writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.model.record import is_job_id
from machine.ownership import give
from machine.trees import remove_tree
from monitoring.checkpoints import commit
from monitoring.disk import file_size
from monitoring.paths import RunPaths
from monitoring.storage.moments import Entry, Moment
from worker.files.given import Given
from worker.files.look import Look, size_of

WORK = "work"
_RUN = RunPaths(Path())
_OUTPUT = "output"
# Directories of each run: nothing else takes their places.
DIRECTORIES = {WORK, _OUTPUT, *map(str, (_RUN.checkpoints, _RUN.logs, _RUN.visualizations))}
_TRAVERSED = 0o711
_USUAL = "0"
_FULL_BYTES = 1 << 20
_RESERVE_BYTES = 4 << 20
# The names in an attempt's directory besides its run, those of earlier versions included.
_NAMES = {
    "workspace",
    "output",
    "steps",
    "train.json",
    "adoptions",
    "staging",
    "moment",
    "curves",
    "environment",
    "inputs",
    "reserve",
    "rows",
}


@dataclass(frozen=True)
class Scratch:
    """The paths of an attempt's files below `base`."""

    base: Path
    job_id: str
    attempt: int
    place: str = ""
    owner: int | None = None  # the user of the job, if it has one of its own

    @classmethod
    def usual(cls, base: Path, job_id: str, attempt: int, owner: int | None = None) -> Scratch:
        """The same paths for all attempts of the job: programs keep absolute ones."""
        return cls(base, job_id, attempt, _USUAL, owner)

    @property
    def root(self) -> Path:
        """The directory of the attempt."""
        return self.base / self.job_id / (self.place or str(self.attempt))

    @property
    def run(self) -> RunPaths:
        """The run directory of the child, named as in storage since plots show its name."""
        return RunPaths(self.root / self.job_id)

    @property
    def workspace(self) -> Path:
        """The working directory of a job with a command of its own; part of its run."""
        return self.run.root / WORK

    @property
    def output_dir(self) -> Path:
        """For programs that want a directory of their own, which is empty at first."""
        return self.run.root / _OUTPUT

    @property
    def output(self) -> Path:
        """The child's output, before its lines are marked."""
        return self.root / "output"

    @property
    def steps(self) -> Path:
        """The child's step counter."""
        return self.root / "steps"

    @property
    def adoptions(self) -> Path:
        """Commit records of the checkpoints that the child writes without a record."""
        return self.root / "adoptions"

    @property
    def rows(self) -> Path:
        """For rows that the service itself writes of the run, before they are in storage."""
        return self.root / "rows"

    @property
    def staging(self) -> Path:
        """Copies of files that change while they are sent."""
        return self.root / "staging"

    @property
    def environment(self) -> Path:
        """The virtual environment of the attempt, if it has one of its own."""
        return self.root / "environment"

    @property
    def inputs(self) -> Path:
        """Links to the inputs of the job, by name."""
        return self.root / "inputs"

    @property
    def train_config(self) -> Path:
        """The settings of the built-in workload."""
        return self.root / "train.json"

    @property
    def _reserve(self) -> Path:
        return self.root / "reserve"

    def release_reserve(self) -> None:
        """Frees what was set aside for the service's own files, once the program has ended.

        It may have filled the disk, and what it left is to be published all the same.
        """
        self._reserve.unlink(missing_ok=True)

    def full_disk(self) -> str:
        """Says that the disk of the attempt is full, and how much of it is the attempt's.

        '' if there is room. Raises `OSError`.
        """
        disk = shutil.disk_usage(self.root)
        if disk.free > max(_FULL_BYTES, disk.total // 1000):
            return ""
        return (
            f"the worker's scratch disk is full: of its {file_size(disk.total)}, "
            f"{file_size(size_of(self.root))} are this attempt's"
        )

    def is_held(self) -> bool:
        """Whether a worker has the directory of the attempt."""
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(self.root, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(lock)
        return False

    def move_aside(self) -> None:
        """Gives the directory that another worker holds another name; raises `OSError`.

        It removes that when it goes on, and nothing else.
        """
        number = self.attempt
        while (aside := self.root.with_name(str(number))).exists():
            number += 1
        self.root.rename(aside)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Empty directories, which are removed in the end; raises `OSError`.

        They stay locked, so that no worker takes them for the leftovers of a killed one.
        """
        with contextlib.suppress(OSError):
            remove_tree(self.root)
        lock = _make_locked(self.root)
        try:
            if self.owner is not None:
                for folder in (self.root.parent, self.root):
                    folder.chmod(_TRAVERSED)
            self.empty()
            yield
        finally:
            with contextlib.suppress(OSError):
                if _is_at(self.root, lock):
                    remove_tree(self.root)
            with contextlib.suppress(OSError):  # another attempt is in it
                self.root.parent.rmdir()
            os.close(lock)

    def hand_over(self) -> None:
        """Gives the user of the job what its program writes to; raises `OSError`.

        Before any process of the attempt starts. The rest of the directory stays the worker's.
        """
        if self.owner is None:
            return
        self.run.root.chmod(0o700)
        for path in (self.output, self.steps):
            path.touch(0o600)
        for path in (self.run.root, self.output, self.steps):
            give(path, self.owner)

    def empty(self) -> None:
        """Empties the directories; raises `OSError`."""
        for left in self.root.iterdir():
            remove_tree(left)
        run = self.run
        for directory in (self.workspace, run.checkpoints, run.logs, run.visualizations):
            directory.mkdir(parents=True)
        with self._reserve.open("wb") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, _RESERVE_BYTES)


def _make_locked(root: Path) -> int:
    """Makes and locks the directory `root`; returns the descriptor of the lock.

    Another worker's cleaner may remove it before it is locked; then it is made again.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            root.mkdir(parents=True, exist_ok=True)
            lock = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(root, lock):
                return lock
            os.close(lock)


def _is_at(root: Path, lock: int) -> bool:
    """Whether a locked directory still has its name."""
    return root.exists() and os.fstat(lock).st_ino == root.stat().st_ino


def remove_leftovers(scratch_dir: Path) -> None:
    """Removes the scratch directories of workers that were killed on this machine.

    It removes nothing else: the directory may be a whole disk with other files.
    """
    jobs = [path for path in scratch_dir.glob("*/") if is_job_id(path.name)]
    for root in (path for job in jobs for path in job.glob("*/")):
        with contextlib.suppress(OSError):  # in use, somebody else's, or removed by another worker
            if not _is_ours(root):
                continue
            lock = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(root)
            finally:
                os.close(lock)
    for job in jobs:
        with contextlib.suppress(OSError):  # another attempt is in it
            job.rmdir()


def _is_ours(root: Path) -> bool:
    """Whether a directory belongs to an attempt, even if it was only partly made or removed."""
    run = root.parent.name
    names = {path.name for path in root.iterdir()}
    return root.name.isdigit() and (run in names or names <= _NAMES)


class ScratchCleaner:
    """Removes the leftovers of killed workers regularly, in a thread of its own.

    Once at the start is not enough: the training process of a killed worker may outlive it while
    its guard or the machine is stopped, and makes its directories again. After each pass it calls
    `then`, which makes room on the same disk.
    """

    def __init__(
        self, scratch_dir: Path, *, seconds: float, then: Callable[[], None] = lambda: None
    ) -> None:
        self._scratch_dir = scratch_dir
        self._then = then
        self._seconds = seconds
        self._stopping = threading.Event()

    def start(self) -> None:
        """Starts to remove leftovers, at once and then regularly."""
        threading.Thread(target=self._run, name="scratch-cleaner", daemon=True).start()

    def stop(self) -> None:
        """Ends the cleaning after the removal in progress."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            remove_leftovers(self._scratch_dir)
            self._then()
            self._stopping.wait(self._seconds)


@dataclass(frozen=True)
class Version:
    """Distinguishes one content of a file from the next."""

    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> Version:
        """The version now at `path`; raises `FileNotFoundError`."""
        status = path.stat()
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Restored:
    """The state that an attempt starts from: its checkpoint's record, and all files in storage.

    `left` has the checkpoints that stay in storage, by their path here, with their records. The
    `adopted` checkpoints are here without the records that storage has of them. `last_step` is
    that of the last metrics row, which may be later than the checkpoint.
    """

    checkpoint: commit.CommitRecord | None
    files: dict[Path, Version]
    links: dict[str, str]
    left: dict[Path, commit.CommitRecord] = field(default_factory=dict)
    last_step: int | None = None
    adopted: dict[Path, commit.CommitRecord] = field(default_factory=dict)
    moment: Moment | None = None  # the one that this attempt starts from
    moments: Sequence[Moment] = ()
    entries: dict[str, Entry] = field(default_factory=dict)
    look: Look = field(default_factory=dict)
    kept: frozenset[str] = frozenset()  # the contents in the folder of contents
    unfetched: frozenset[str] = frozenset()  # damaged checkpoints, which nobody needs here
    strays: frozenset[str] = frozenset()  # files at paths that the moment lacks
    given: Given = field(default_factory=Given)
