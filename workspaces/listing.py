"""What of a directory belongs to its workspace, and in which version it is there."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workspaces.git import Repository, Tree
from workspaces.ignore import Ignored
from workspaces.layout import (
    IGNORE_FILE,
    MAX_FILES,
    VARIABLE,
    WorkspaceError,
    bytes_text,
    count_text,
)
from workspaces.links import leaves

_LARGEST = 5
_ADVICE = f"name it in {IGNORE_FILE}, or in `exclude` of the job's workspace"


@dataclass(frozen=True)
class Member:
    """A file, link or empty folder, and what tells one version of it from the next.

    `size` in bytes, `executable` for its owner, `version` of inode and times.
    """

    kind: Literal["file", "link", "folder"]
    size: int = 0
    executable: bool = False
    target: str = ""
    version: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Listing:
    """The members of a workspace, by path; `notes` say what somebody may miss."""

    members: dict[str, Member]
    notes: Sequence[str] = ()

    @property
    def files(self) -> int:
        """The number of files and links."""
        return sum(member.kind != "folder" for member in self.members.values())

    @property
    def bytes(self) -> int:
        """The size of the files, bytes."""
        return sum(member.size for member in self.members.values())

    def check(self, limit: int) -> None:
        """Raises `WorkspaceError` for no files, or more than `limit` bytes."""
        if not self.members:
            raise WorkspaceError("the workspace has no files: all are ignored, or there are none")
        if self.bytes > limit:
            largest = sorted(self.members, key=lambda path: -self.members[path].size)[:_LARGEST]
            named = ", ".join(f"{p} ({bytes_text(self.members[p].size)})" for p in largest)
            raise WorkspaceError(
                f"the workspace has {bytes_text(self.bytes)}, more than {bytes_text(limit)}; the "
                f"largest files are {named}. Name what the job does not need in {IGNORE_FILE}, or "
                f"set {VARIABLE} here, for the API and for the workers"
            )


def list_members(
    root: Path, ignored: Ignored, repository: Repository | None = None, tree: Tree | None = None
) -> Listing:
    """What belongs to the workspace in `root`, as it is now; raises `WorkspaceError`.

    `tree`: what the repository says, where there is one.
    """
    notes: list[str] = []
    if repository is None or tree is None:
        found = set(_walk(root, ignored))
    else:
        notes = [f"the submodule {path} is not checked out" for path in tree.missing_submodules]
        found = {path for path in tree.tracked if not ignored.by_rules(path)}
        found |= {path for path in tree.untracked if _is_sent(path, ignored)}
        if ignored.brings_back:
            found |= {path for path in repository.ignored() if ignored.by_rules(path) is False}
    paths = sorted(found)
    if len(paths) > MAX_FILES:
        raise WorkspaceError(_too_many(paths))
    members = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # deleted, but tracked
            members[path] = _member(root, path)
    return Listing(members, notes)


def _is_sent(path: str, ignored: Ignored) -> bool:
    by_rules = ignored.by_rules(path)
    return not ignored.usually(path) if by_rules is None else not by_rules


def _too_many(paths: Sequence[str]) -> str:
    folders = Counter(path.partition("/")[0] for path in paths if "/" in path)
    where = ", ".join(f"{most:,} of them in {folder}/" for folder, most in folders.most_common(1))
    return (
        f"the workspace has {count_text(len(paths))}{where and f', {where}'}; at most "
        f"{MAX_FILES:,} are sent: {_ADVICE}"
    )


def _walk(root: Path, ignored: Ignored) -> Iterator[str]:
    """The files, links and empty folders below a directory that git does not know."""
    folders = [""]
    while folders:
        folder = folders.pop()
        empty = True
        with os.scandir(root / folder) as found:
            for item in found:
                empty = False
                path = f"{folder}{item.name}"
                is_folder = item.is_dir(follow_symlinks=False)
                by_rules = ignored.by_rules(path, is_folder=is_folder)
                if by_rules or (by_rules is None and ignored.usually_one(path, is_folder)):
                    continue
                if is_folder:
                    folders.append(f"{path}/")
                else:
                    yield path
        if empty and folder:
            yield folder[:-1]


def _member(root: Path, path: str) -> Member:
    status = (root / path).lstat()
    if (shown := _shown(path)) != path:
        raise WorkspaceError(f"the name of {shown} is not UTF-8: rename it, or {_ADVICE}")
    version = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
    if stat.S_ISREG(status.st_mode):
        return Member("file", status.st_size, bool(status.st_mode & 0o100), version=version)
    if stat.S_ISDIR(status.st_mode):
        return Member("folder")
    if not stat.S_ISLNK(status.st_mode):
        raise WorkspaceError(f"{path} is {_kind(status.st_mode)}, and cannot be sent: {_ADVICE}")
    target = os.readlink(root / path)  # noqa: PTH115 - a Path would lose what is written there
    if (shown := _shown(target)) != target:
        raise WorkspaceError(f"the link {path} -> {shown} is not UTF-8: rename it, or {_ADVICE}")
    if leaves(path, target):
        why = "it is absolute" if target.startswith("/") else "it may lead out of the workspace"
        raise WorkspaceError(f"the link {path} -> {target} cannot be sent, {why}: {_ADVICE}")
    return Member("link", target=target, version=version)


def _shown(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISSOCK, "a socket"), (stat.S_ISFIFO, "a named pipe"))
    return next((words for is_kind, words in kinds if is_kind(mode)), "a device")
