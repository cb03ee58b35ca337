"""Names of experiments and the directories that hold them."""

from __future__ import annotations

import secrets
import subprocess
import time
from pathlib import Path

from monitoring.paths import RunPaths

UNKNOWN = "unknown"


def generate_experiment_id(name: str) -> str:
    """Return a unique id, `{name}_{YYYYmmdd_HHMMSS}_{git hash}_{random}`, which sorts by time.

    Raises ValueError if `name` is not a single directory name.
    """
    _require_single_name(name)
    moment = time.strftime("%Y%m%d_%H%M%S")
    return f"{name}_{moment}_{get_git_hash()}_{secrets.token_hex(3)}"


def create_experiment_directory(base_dir: str | Path, experiment_id: str) -> dict[str, str]:
    """Make the directories of an experiment and return their paths as strings.

    The keys are `root` (`base_dir/experiment_id`), `checkpoints`, `logs` and `visualizations`.
    A directory that exists is left as it is.

    Raises ValueError if `experiment_id` is not a single directory name, and OSError.
    """
    _require_single_name(experiment_id)
    paths = RunPaths(Path(base_dir) / experiment_id)
    directories = {
        "root": paths.root,
        "checkpoints": paths.checkpoints,
        "logs": paths.logs,
        "visualizations": paths.visualizations,
    }
    for directory in directories.values():
        directory.mkdir(parents=True, exist_ok=True)
    return {name: str(directory) for name, directory in directories.items()}


def get_git_hash() -> str:
    """Return the short hash of the current commit; "unknown" outside a git repository."""
    return git("rev-parse", "--short=8", "HEAD", directory=str(Path.cwd())) or UNKNOWN


def git(*arguments: str, directory: str) -> str | None:
    """Run git in a directory and return its output; None if git fails or is not installed."""
    try:
        answer = subprocess.run(
            ["git", *arguments],
            check=False,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _require_single_name(name: str) -> None:
    if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        raise ValueError(
            f"{name!r} cannot name an experiment: it must be one directory name, without / or \\"
        )
