"""What a workspace's archive holds, how large it may be, and where storage has it.

An archive is a tar file, compressed by gzip, and named by its SHA-256:

    files/train.py   the files and links, each below `files/`
    git.json         the commit that they come from, if git knows it
    git.patch        what had changed since that commit
"""

from __future__ import annotations

import os

FILES = "files"
GIT = "git.json"
PATCH = "git.patch"

# The top-level folder of storage in which archives lie; it is no run, since no job has such an id.
FOLDER = "workspaces"

IGNORE_FILE = ".spectrainignore"

MAX_FILES = 100_000
DEFAULT_BYTES = 256_000_000
VARIABLE = "SPECTRAIN_WORKSPACE_BYTES"


class WorkspaceError(Exception):
    """A workspace cannot be packed or unpacked; the message says what to change."""


def archive_key(sha256: str) -> str:
    """The key of an archive in storage."""
    return f"{FOLDER}/{sha256}.tar.gz"


def partial_key(sha256: str) -> str:
    """The key of the part of an archive that has been received so far."""
    return f"{FOLDER}/{sha256}.part"


def use_key(sha256: str) -> str:
    """The key of an empty file that is written when somebody is about to use an archive."""
    return f"{FOLDER}/{sha256}.used"


def archive_limit(limit: int) -> int:
    """The size of an archive of `limit` bytes that do not shrink, and of its headers."""
    return limit + limit // 10 + (1 << 20)


def limit_here() -> int:
    """The limit on the files of a workspace, bytes, by this process's environment.

    Raises `WorkspaceError`.
    """
    given = os.environ.get(VARIABLE, "").strip() or str(DEFAULT_BYTES)
    if not given.isdecimal() or int(given) == 0:
        raise WorkspaceError(f"{VARIABLE} is {given!r}; allowed: a number of bytes from 1 on")
    return int(given)


def bytes_text(size: float) -> str:
    """A number of bytes in a readable unit: 2.1 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def count_text(files: int) -> str:
    """A number of files: 1 file, 213 files."""
    return "1 file" if files == 1 else f"{files:,} files"
