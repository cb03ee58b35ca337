"""Every file name of a run, spelled in one place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_CHECKPOINT = re.compile(r"checkpoint_step_(\d+)\.pt")


@dataclass(frozen=True)
class RunPaths:
    """The layout of a run below its root directory.

    The same names are keys below the run's prefix in an object store, so the methods return
    paths that are joined, never created: making directories is the writer's business.
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
        """Directory of the attempts' receipts."""
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
    def superseded_metrics(self) -> Path:
        """Rows of steps that a resume computed again."""
        return self.logs / "metrics.superseded.jsonl"

    @property
    def resumes(self) -> Path:
        """One JSON object per resume: the step it went on from, and when."""
        return self.logs / "resumes.jsonl"

    @property
    def training_log(self) -> Path:
        """The metrics for human eyes."""
        return self.logs / "training.log"

    @property
    def output_log(self) -> Path:
        """What the training process printed, each line marked with its attempt."""
        return self.logs / "output.log"

    @property
    def config(self) -> Path:
        """What the run was started with."""
        return self.root / "config.json"

    @property
    def results(self) -> Path:
        """What came out."""
        return self.root / "results.json"

    @property
    def job(self) -> Path:
        """The job's specification as the service accepted it."""
        return self.root / "job.json"

    def attempt(self, number: int) -> Path:
        """The receipt of an attempt."""
        return self.attempts / f"{number}.json"


def commit_record(checkpoint: Path) -> Path:
    """The commit record that makes a checkpoint file count."""
    return checkpoint.with_name(checkpoint.name + ".json")


def step_of(checkpoint: Path) -> int | None:
    """The step in a checkpoint's file name, None for any other file."""
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    return int(match[1]) if match else None
