"""Patterns with which a job names paths of its run."""

from __future__ import annotations

import fnmatch

from worker.files.scratch import WORK


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern names a path: by its name, below the run, or below its work directory."""
    pattern = pattern.rstrip("/")
    names = (path, path.removeprefix(f"{WORK}/"), path.rpartition("/")[2])
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)
