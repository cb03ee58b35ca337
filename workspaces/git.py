"""What git says of a directory: its files, its commit, and what has changed since."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from workspaces.layout import WorkspaceError, bytes_text

_MAX_PATCH = 10_000_000  # bytes
_MAX_NAMES = 100
_PATHS_AT_ONCE = 500
_SUBMODULE = b"160000"
# Variables with which a caller (a hook, for example) speaks of another repository.
_OF_ANOTHER = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"}


@dataclass(frozen=True)
class Tree:
    """What of a directory git tracks, what it neither tracks nor ignores, and what it leaves out.

    Paths are relative to the directory.
    """

    tracked: Sequence[str]
    untracked: Sequence[str]
    missing_submodules: Sequence[str]


class Repository:
    """The part of a git work tree at or below `root`; its methods raise `WorkspaceError`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @classmethod
    def of(cls, root: Path) -> Repository | None:
        """None if the directory is in no work tree, or in one that ignores all of it."""
        try:
            asked = _run(root, "rev-parse", "--is-inside-work-tree")
        except FileNotFoundError:
            if any((folder / ".git").exists() for folder in (root, *root.parents)):
                raise WorkspaceError(
                    f"{root} is in a git work tree, and there is no git to say what it ignores: "
                    "install git"
                ) from None
            return None
        if asked.returncode:
            words = asked.stderr.decode(errors="replace").strip()
            if "not a git repository" in words:
                return None
            raise WorkspaceError(f"git cannot read {root}: {words}")
        if asked.stdout.strip() != b"true":
            return None
        found = cls(root)
        is_ignored = _run(root, "check-ignore", "--quiet", ".").returncode == 0
        return None if is_ignored and not found._output("ls-files", "-z", "--cached") else found

    def tree(self) -> Tree:
        """The files, those of submodules and of repositories inside included."""
        tracked: list[str] = []
        untracked: list[str] = []
        missing: list[str] = []
        for line in self._lines("ls-files", "-z", "--cached", "--stage"):
            about, _, name = line.partition(b"\t")
            path = os.fsdecode(name)
            if not about.startswith(_SUBMODULE):
                tracked.append(path)
            elif (self._root / path / ".git").exists():
                self._below(path, tracked, untracked, missing)
            else:
                missing.append(path)
        for name in self._lines("ls-files", "-z", "--others", "--exclude-standard"):
            path = os.fsdecode(name)
            if path.endswith("/"):  # a repository of its own, which this one does not know
                self._below(path[:-1], untracked, untracked, missing)
            else:
                untracked.append(path)
        return Tree(tracked, untracked, missing)

    def ignored(self) -> list[str]:
        """The files that git ignores; these may be many."""
        names = self._lines("ls-files", "-z", "--others", "--ignored", "--exclude-standard")
        return [path for name in names if not (path := os.fsdecode(name)).endswith("/")]

    def commit(self) -> dict[str, object]:
        """The commit, its branch, and the remote's URL; None for what there is none of."""
        branch = self._text("symbolic-ref", "--short", "--quiet", "HEAD")
        remote = self._text("config", f"branch.{branch}.remote") if branch else None
        url = self._text("remote", "get-url", remote or "origin")
        return {
            "commit": self._text("rev-parse", "--verify", "--quiet", "HEAD"),
            "branch": branch,
            "remote": without_credentials(url) if url else None,
        }

    def changes(self, is_sent: Callable[[str], bool]) -> tuple[dict[str, object], bytes]:
        """What differs from the commit, in short, and as a patch.

        `is_sent` says of a path whether it belongs to the workspace, or did before it was removed:
        the patch shows nothing that is left out.
        """
        if self._text("rev-parse", "--verify", "--quiet", "HEAD") is None:
            return {"dirty": True}, b""
        names = self._lines("diff", "-z", "--name-only", "--relative", "HEAD")
        changed = [path for name in names if is_sent(path := os.fsdecode(name))]
        said: dict[str, object] = {"dirty": bool(changed), "changed": changed[:_MAX_NAMES]}
        patch = b""
        for start in range(0, len(changed), _PATHS_AT_ONCE):
            patch += self._patch(changed[start : start + _PATHS_AT_ONCE])
            if len(patch) > _MAX_PATCH:
                said["patch"] = f"left out: larger than {bytes_text(_MAX_PATCH)}"
                return said, b""
        return said, patch

    def _patch(self, paths: Sequence[str]) -> bytes:
        """The change of some files, whatever the user has set for `git diff`."""
        return self._output(
            "-c", "diff.noprefix=false", "-c", "diff.mnemonicPrefix=false", "--literal-pathspecs",
            "diff", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--relative",
            "HEAD", "--", *paths,
        )  # fmt: skip

    def _below(
        self, path: str, tracked: list[str], untracked: list[str], missing: list[str]
    ) -> None:
        inner = Repository(self._root / path).tree()
        tracked += [f"{path}/{name}" for name in inner.tracked]
        untracked += [f"{path}/{name}" for name in inner.untracked]
        missing += [f"{path}/{name}" for name in inner.missing_submodules]

    def _lines(self, *arguments: str) -> Iterator[bytes]:
        return (line for line in self._output(*arguments).split(b"\0") if line)

    def _text(self, *arguments: str) -> str | None:
        done = _run(self._root, *arguments)
        return done.stdout.decode(errors="replace").strip() or None if not done.returncode else None

    def _output(self, *arguments: str) -> bytes:
        done = _run(self._root, *arguments)
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip()
            raise WorkspaceError(f"git cannot read {self._root}: {words}")
        return done.stdout


def without_credentials(url: str) -> str:
    """The URL of a remote without user, password and parameters; `git@host:path` stays."""
    parts = urlsplit(url)
    if not parts.scheme or not parts.netloc:
        return re.sub(r"^[^@/:]+:[^@/]+@", "", url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    env = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER}
    env |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    return subprocess.run(
        ["git", "-C", os.fspath(root), *arguments], capture_output=True, check=False, env=env
    )
