"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
from pathlib import Path

TEMPORARY = ".tmp"


def temporary(path: Path) -> Path:
    """The name beside `path` under which its next content is written."""
    return path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")


def write_atomically(path: Path, data: bytes) -> None:
    """Give `path` this content in one step: a reader sees the old or the new, never a part.

    Raises OSError, with the temporary file gone and `path` as it was.
    """
    draft = temporary(path)
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def link_atomically(link: Path, target: str) -> None:
    """Point the symbolic link at `target` in one step. Raises OSError."""
    draft = temporary(link)
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(link)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a directory, survive a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
