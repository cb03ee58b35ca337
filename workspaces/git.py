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
# How many fields there are before the path, in the lines of `git status --porcelain=v2`.
_STATUS_FIELDS = {"1": 7, "u": 9, "?": 0}
# Variables with which a caller (a hook, for example) speaks of another repository.
_OF_ANOTHER = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"}


@dataclass(frozen=True)
class Tree:
    """What git says of a directory: its files, by paths relative to it, and its commit.

    `tracked` and `untracked` (and not ignored) files, those of submodules and of repositories
    inside included. `changed`: since the commit, deleted ones too. `commit` and `branch` are None
    where there is none.
    """

    tracked: Sequence[str]
    untracked: Sequence[str]
    missing_submodules: Sequence[str]
    changed: Sequence[str]
    commit: str | None
    branch: str | None


class Repository:
    """The part of a git work tree at or below `root`; its methods raise `WorkspaceError`."""

    def __init__(self, root: Path, prefix: str = "") -> None:
        self._root = root
        self._prefix = prefix  # of `root` in the work tree, with a slash at the end

    @classmethod
    def of(cls, root: Path) -> Repository | None:
        """None if the directory is in no work tree, or in one that ignores all of it."""
        try:
            asked = _run(root, "rev-parse", "--is-inside-work-tree", "--show-prefix")
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
        inside, _, prefix = os.fsdecode(asked.stdout).partition("\n")
        if inside != "true":
            return None
        found = cls(root, prefix.rstrip("\n"))
        if prefix.strip() and not found._output("ls-files", "-z", "--cached"):
            ignored = _run(root, "check-ignore", "--quiet", ".").returncode == 0
            return None if ignored else found
        return found

    def tree(self) -> Tree:
        """What the directory holds now."""
        tracked: list[str] = []
        untracked: list[str] = []
        missing: list[str] = []
        inner: list[str] = []
        for line in self._lines("ls-files", "-z", "--cached", "--stage"):
            about, _, name = line.partition(b"\t")
            path = os.fsdecode(name)
            if not about.startswith(_SUBMODULE):
                tracked.append(path)
            elif (self._root / path / ".git").exists():
                inner.append(path)
            else:
                missing.append(path)
        changed: list[str] = []
        heads: dict[str, str | None] = {}
        for line in self._lines(
            "status", "--porcelain=v2", "-z", "--branch", "--untracked-files=all", "--no-renames",
            "--ignore-submodules=all", "--", ".",
        ):  # fmt: skip
            kind, _, rest = os.fsdecode(line).partition(" ")
            if kind == "#":
                head, _, value = rest.partition(" ")
                heads[head] = None if value.startswith("(") else value
                continue
            path = rest.split(" ", _STATUS_FIELDS[kind])[-1].removeprefix(self._prefix)
            if kind != "?":
                changed.append(path)
            elif path.endswith("/"):  # a repository of its own, which this one does not know
                inner.append(path[:-1])
            else:
                untracked.append(path)
        for path in inner:
            below = Repository(self._root / path).tree()
            tracked += [f"{path}/{name}" for name in below.tracked]
            untracked += [f"{path}/{name}" for name in below.untracked]
            missing += [f"{path}/{name}" for name in below.missing_submodules]
        return Tree(
            tracked, untracked, missing, changed, heads.get("branch.oid"), heads.get("branch.head")
        )

    def ignored(self) -> list[str]:
        """The files that git ignores; these may be many."""
        names = self._lines("ls-files", "-z", "--others", "--ignored", "--exclude-standard")
        return [path for name in names if not (path := os.fsdecode(name)).endswith("/")]

    def describe(
        self, tree: Tree, is_sent: Callable[[str], bool]
    ) -> tuple[dict[str, object], bytes]:
        """The commit, and what has changed since, in short and as a patch.

        `is_sent` says of a path whether it belongs to the workspace, or did before it was removed:
        the patch shows nothing that is left out.
        """
        changed = sorted(path for path in tree.changed if is_sent(path))
        said: dict[str, object] = {
            "commit": tree.commit,
            "branch": tree.branch,
            "remote": self._remote(tree.branch),
            "dirty": bool(changed),
            "changed": changed[:_MAX_NAMES],
        }
        patch = b""
        for start in range(0, len(changed) if tree.commit else 0, _PATHS_AT_ONCE):
            patch += self._patch(changed[start : start + _PATHS_AT_ONCE])
            if len(patch) > _MAX_PATCH:
                left_out = f"left out: larger than {bytes_text(_MAX_PATCH)}"
                return {**said, "patch": left_out}, b""
        return said, patch

    def _remote(self, branch: str | None) -> str | None:
        """The URL of the branch's remote, else of `origin`; None without one."""
        settings: dict[str, str] = {}
        pattern = r"^(remote\..*\.url|branch\..*\.remote)$"
        done = _run(self._root, "config", "-z", "--get-regexp", pattern)
        for line in done.stdout.decode(errors="replace").split("\0"):
            name, _, value = line.partition("\n")
            settings.setdefault(name, value)
        remote = settings.get(f"branch.{branch}.remote", "origin")
        url = settings.get(f"remote.{remote}.url")
        return without_credentials(url) if url else None

    def _patch(self, paths: Sequence[str]) -> bytes:
        """The change of some files, whatever the user has set for `git diff`."""
        return self._output(
            "-c", "diff.noprefix=false", "-c", "diff.mnemonicPrefix=false", "--literal-pathspecs",
            "diff", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--relative",
            "HEAD", "--", *paths,
        )  # fmt: skip

    def _lines(self, *arguments: str) -> Iterator[bytes]:
        return (line for line in self._output(*arguments).split(b"\0") if line)

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
