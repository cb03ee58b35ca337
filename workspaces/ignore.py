"""Which files of a directory are no part of its workspace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workspaces.layout import IGNORE_FILE, WorkspaceError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

# What tools make again. Of what git tracks, all is sent.
_USUAL = frozenset(
    {
        ".git", ".hg", ".svn", ".venv", "__pycache__", "node_modules", ".ipynb_checkpoints",
        ".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox", ".nox", ".DS_Store",
    }
)  # fmt: skip
# What only the root of an environment has, a virtual one or one of conda, or a directory in which
# this service stores runs, or all its data (`spectrain up`).
_MARKS = ("pyvenv.cfg", "conda-meta", ".spectrain", "experiments/.spectrain")


class Ignored:
    """The rules of the file `.spectrainignore` and of `exclude`, in the syntax of `.gitignore`.

    The last rule that matches wins. One that begins with `!` brings back what git ignores, or what
    is usually left out. Raises `WorkspaceError`.
    """

    def __init__(self, root: Path, exclude: Sequence[str] = ()) -> None:
        self._root = root
        self._marked: dict[str, bool] = {}
        self._rules: GitIgnoreSpec | None = None
        lines = [*_lines(root), *exclude]
        meant = [line for line in lines if line.strip() and not line.startswith("#")]
        self.brings_back = any(line.startswith("!") for line in meant)
        if meant:
            self._rules = _compiled(meant)

    def by_rules(self, path: str, *, is_folder: bool = False) -> bool | None:
        """Whether a rule leaves a path out (True) or brings it back (False); None for neither."""
        if self._rules is None:
            return None
        return self._rules.check_file(f"{path}/" if is_folder else path).include

    def usually(self, path: str) -> bool:
        """Whether a file, or a folder that it lies in, is usually left out."""
        *folders, _ = parts = path.split("/")
        return any(
            self.usually_one("/".join(parts[: n + 1]), n < len(folders)) for n in range(len(parts))
        )

    def usually_one(self, path: str, is_folder: bool) -> bool:
        """Whether one path is usually left out, wherever it lies."""
        name = path.rpartition("/")[2]
        if name in _USUAL or name.endswith(".pyc"):
            return True
        return is_folder and self._is_marked(path)

    def _is_marked(self, folder: str) -> bool:
        if folder not in self._marked:
            at = self._root / folder
            self._marked[folder] = any((at / name).exists() for name in _MARKS)
        return self._marked[folder]


def _lines(root: Path) -> list[str]:
    try:
        return (root / IGNORE_FILE).read_text().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise WorkspaceError(f"{IGNORE_FILE} cannot be read: {error}") from None


def _compiled(lines: Sequence[str]) -> GitIgnoreSpec:
    # Slow to import, and needed by few.
    from pathspec import GitIgnoreSpec  # noqa: PLC0415

    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:
            raise WorkspaceError(
                f"{line!r} in {IGNORE_FILE} or `exclude` is no pattern of .gitignore"
            ) from None
    return GitIgnoreSpec.from_lines(lines)
