"""The names of all files and directories of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_CHECKPOINT = re.compile(r"checkpoint_step_(\d+)\.pt")


@dataclass(frozen=True)
class RunPaths:
    """The layout of a run below its root directory.

    The paths are joined, not created. In an object store the same names are keys below the run's
    prefix.
    """

    root: Path

    @property
    def checkpoints(self) -> Path:
        """Directory of checkpoints and their commit records."""
        return self.root / "checkpoints"

    @property
    def logs(self) -> Path:
        """Directory of metrics and logs."""
        return self.root / "logs"

    @property
    def visualizations(self) -> Path:
        """Directory of plots."""
        return self.root / "visualizations"

    @property
    def attempts(self) -> Path:
        """Directory of the receipts of attempts."""
        return self.root / "attempts"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.checkpoints / f"checkpoint_step_{step}.pt"

    @property
    def latest_checkpoint(self) -> Path:
        """The symbolic link to the newest checkpoint."""
        return self.checkpoints / "checkpoint_latest.pt"

    @property
    def best_checkpoint(self) -> Path:
        """The symbolic link to the checkpoint marked best."""
        return self.checkpoints / "checkpoint_best.pt"

    @property
    def metrics(self) -> Path:
        """One JSON object per logged step."""
        return self.logs / "metrics.jsonl"

    @property
    def read_metrics(self) -> Path:
        """Rows that the service has read of a program that writes none itself."""
        return self.logs / "metrics.read.jsonl"

    @property
    def superseded_metrics(self) -> Path:
        """Rows of steps that a resume computed again."""
        return self.logs / "metrics.superseded.jsonl"

    @property
    def system(self) -> Path:
        """What the run used of its machines over time: processors, memory, disk, GPUs."""
        return self.logs / "system.csv"

    @property
    def resumes(self) -> Path:
        """One JSON object per resume: the step of the checkpoint, the time and the attempt."""
        return self.logs / "resumes.jsonl"

    @property
    def training_log(self) -> Path:
        """The metrics as text for people."""
        return self.logs / "training.log"

    @property
    def output_log(self) -> Path:
        """The output of the training process, each line marked with its attempt."""
        return self.logs / "output.log"

    @property
    def earlier_output_log(self) -> Path:
        """The part of a long output log that came before `output_log`."""
        return self.logs / "output.1.log"

    @property
    def output_times(self) -> Path:
        """How long the output log was at which time: `BYTES SECONDS` in each line."""
        return self.logs / "output.times"

    @property
    def config(self) -> Path:
        """The configuration that the run was started with."""
        return self.root / "config.json"

    @property
    def results(self) -> Path:
        """The results of the run."""
        return self.root / "results.json"

    @property
    def job(self) -> Path:
        """The job's specification as the service accepted it."""
        return self.root / "job.json"

    @property
    def git(self) -> Path:
        """The commit that the job's code comes from."""
        return self.root / "git.json"

    @property
    def git_patch(self) -> Path:
        """What had changed since that commit."""
        return self.root / "git.patch"

    def attempt(self, number: int) -> Path:
        """The receipt of an attempt."""
        return self.attempts / f"{number}.json"


def commit_record(checkpoint: Path) -> Path:
    """The commit record of a checkpoint."""
    return checkpoint.with_name(checkpoint.name + ".json")


def step_of(checkpoint: Path) -> int | None:
    """The step in the file name of a checkpoint; None for any other file."""
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    return int(match[1]) if match else None
