"""Names of experiments and the directories that hold them."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import sysconfig
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
    """Return the short hash of the commit that the program comes from; "unknown" without one.

    The repository is that of the program's own directory: the directory of its main script, or the
    working directory of a program that is installed or has no script.
    """
    return git("rev-parse", "--short=8", "HEAD", directory=program_directory()) or UNKNOWN


def program_directory() -> Path:
    """The directory with the code of this program."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is None:
        return Path.cwd()
    directory = Path(script).resolve().parent
    # The repository around an environment is not that of what is installed in it.
    installed = any(directory.is_relative_to(each) for each in _environment_directories())
    return Path.cwd() if installed else directory


def git(*arguments: str, directory: Path) -> str | None:
    """Run git in a directory and return its output; None if git fails or is not installed.

    In an attempt of a job, a repository around the run directory is not the program's: it may be
    any in which the service keeps its files.
    """
    environment = dict(os.environ)
    if run := environment.get("SPECTRAIN_RUN_DIR"):
        ceilings = [environment.get("GIT_CEILING_DIRECTORIES", ""), run, str(Path(run).parent)]
        environment["GIT_CEILING_DIRECTORIES"] = os.pathsep.join(filter(None, ceilings))
    try:
        answer = subprocess.run(
            ["git", *arguments],
            check=False,
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _environment_directories() -> list[Path]:
    """Where packages and their commands are installed."""
    names = ("scripts", "stdlib", "purelib", "platlib")
    return [Path(sysconfig.get_path(name)).resolve() for name in names]


def _require_single_name(name: str) -> None:
    if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        raise ValueError(
            f"{name!r} cannot name an experiment: it must be one directory name, without / or \\"
        )
