"""Decides whether an attempt has something to go on from; `SPECTRAIN_RESUMED` says so."""

from __future__ import annotations

from collections.abc import Sequence

from monitoring.paths import RunPaths
from worker.files.look import folders_of
from worker.files.patterns import matches
from worker.files.scratch import Restored


def has_something_to_resume(restored: Restored, run: RunPaths, patterns: Sequence[str]) -> bool:
    """Whether the restored files have one that a program could go on from.

    With `patterns`, one that they name, by its own path or a folder's. Without, any that the
    program made: no folder or link alone, since programs make those before they save anything, and
    nothing that only tells of the run, such as metrics.
    """
    files = [path for path, seen in restored.look.items() if seen.kind == "file"]
    if patterns:
        return any(
            matches(name, pattern)
            for path in files
            for name in (path, *folders_of(path))
            for pattern in patterns
        )
    return any(not _only_tells(path, run) for path in files)


def _only_tells(path: str, run: RunPaths) -> bool:
    """Whether a file belongs to the service, or is a record that the library writes."""
    whole = run.root / path
    records = {
        run.job, run.output_log, run.config, run.metrics, run.superseded_metrics, run.resumes,
        run.training_log, run.git, run.git_patch,
    }  # fmt: skip
    if whole in records or run.attempts in whole.parents:
        return True
    is_plot = whole.parent == run.visualizations and whole.suffix == ".png"
    # A damaged checkpoint, or the record of one.
    return is_plot or (whole.parent == run.checkpoints and whole.suffix == ".corrupt")
