"""The directory of one attempt on a local disk: where the child writes, and what it starts from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from monitoring import commit
from monitoring.paths import RunPaths
from monitoring.storage import Storage


@dataclass(frozen=True)
class Scratch:
    """The places of an attempt's files; `run` has the layout of a run."""

    root: Path

    @property
    def run(self) -> RunPaths:
        """The run directory that the child sees."""
        return RunPaths(self.root / "run")

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
    def train_config(self) -> Path:
        """The settings of the built-in workload."""
        return self.root / "train.json"

    def create(self) -> None:
        """Makes the directories, empty; raises OSError."""
        self.remove()
        for directory in (
            self.workspace,
            self.run.checkpoints,
            self.run.logs,
            self.run.visualizations,
        ):
            directory.mkdir(parents=True)

    def remove(self) -> None:
        """Removes everything, if it is there."""
        shutil.rmtree(self.root, ignore_errors=True)


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
    """What an attempt starts from: its checkpoint's record, and every file as storage has it."""

    checkpoint: commit.CommitRecord | None
    files: dict[Path, Version]


def restore(storage: Storage, job_id: str, run: RunPaths) -> Restored:
    """Fills a run directory with what earlier attempts published.

    Every byte of the checkpoint to go on from is verified. A damaged one is set aside as
    `.corrupt` and the one before it is taken. The output log stays in storage: it is only ever
    added to. Raises `OSError` and `StorageError`.
    """
    files = {}
    for file in storage.list(job_id):
        target = run.root / Path(file.key).relative_to(job_id)
        if target == run.output_log or target.parent == run.attempts:
            continue
        immutable = target.parent == run.checkpoints and target.suffix == ".pt"
        storage.get(file.key, target, immutable=immutable)
        files[target] = Version.of(target)

    newest_first = sorted(commit.committed(run.checkpoints), key=lambda found: -found[0].time)
    for record, path in newest_first:
        try:
            commit.verify(path)
        except commit.CheckpointCorrupt:
            commit.set_aside(path)
        else:
            run.latest_checkpoint.symlink_to(path.name)
            return Restored(record, files)
    return Restored(None, files)
