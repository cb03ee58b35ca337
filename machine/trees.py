"""Removes directories in which a job may have left anything: depth, locked folders, odd names."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(root: Path) -> None:
    """Removes a directory with all that is in it, or what is in its place; raises `OSError`.

    Of one that is too deep to be walked, or with folders that their owner has locked, it moves the
    folders up to where they can be removed, one after the other. Call it only while no process of a
    job is there to put other files in place of these.
    """
    if root.is_symlink() or not root.is_dir():
        root.unlink(missing_ok=True)
        return
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(root)
    if not os.path.lexists(root):
        return
    root.chmod(0o700)
    top = os.open(root, _FOLDER)
    try:
        while _flatten(top):
            pass
    finally:
        os.close(top)
    root.rmdir()


def make_folder(path: Path) -> None:
    """Makes a directory if there is none, in place of what is there; raises `OSError`."""
    if path.is_symlink() or not path.is_dir():
        remove_tree(path)
        path.mkdir(parents=True, exist_ok=True)


def _flatten(top: int) -> bool:
    """Removes what a folder has, and moves up the folders within its folders; whether any went."""
    went = False
    for name in os.listdir(top):
        with contextlib.suppress(OSError):
            if not _is_folder(name, top):
                os.unlink(name, dir_fd=top)
            else:
                _empty(name, top)
                os.rmdir(name, dir_fd=top)
            went = True
    return went


def _empty(name: str, top: int) -> None:
    """Empties a folder below `top`: what is a folder itself moves up to there."""
    _unlock(name, top)
    folder = os.open(name, _FOLDER, dir_fd=top)
    try:
        for each in os.listdir(folder):  # noqa: PTH208 - a descriptor
            with contextlib.suppress(OSError):
                if _is_folder(each, folder):
                    _unlock(each, folder)
                    os.rename(each, secrets.token_hex(8), src_dir_fd=folder, dst_dir_fd=top)
                else:
                    os.unlink(each, dir_fd=folder)
    finally:
        os.close(folder)


def _is_folder(name: str, parent: int) -> bool:
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    return stat.S_ISDIR(found.st_mode)


def _unlock(name: str, parent: int) -> None:
    os.chmod(name, 0o700, dir_fd=parent)
