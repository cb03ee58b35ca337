"""Reads the file that names a job's packages, in each of its forms.

Only what decides which packages are installed is kept, so that a change of anything else in
`pyproject.toml` or in a script builds nothing anew.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jobs.errors import SpectrainError

_LOCK, _PROJECT = "uv.lock", "pyproject.toml"
_MAX_BYTES = 16 << 20
_MAX_FILES = 100
_INCLUDE = re.compile(r"(?:-r|-c|--requirement|--constraint)(?:\s+|\s*=\s*)(.+)|-[rc](\S+)")
_LOCAL = re.compile(
    r"(-e|--editable|-f|--find-links)(\s|=|$)|\.{1,2}(/|$|\[)|[^\s:@]+/[^\s:@]*$|[^-]*\bfile:",
    re.ASCII,
)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# PEP 723: https://packaging.python.org/en/latest/specifications/inline-script-metadata/
_BLOCK_BEGINS, _BLOCK_ENDS = "# /// script", "# ///"


class RequirementsError(SpectrainError):
    """The file cannot be used; the message says why. It would be the same on any worker."""


@dataclass(frozen=True)
class Requirements:
    """What is to be installed: `files`, by path, of which pip reads the one named `main`.

    `is_lock`: it is a lock of uv's, which lists all packages that belong to it.
    """

    main: str
    files: Mapping[str, bytes]
    is_lock: bool = False

    @property
    def digest(self) -> str:
        """The SHA-256 of it, in hexadecimal."""
        whole = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            whole.update(f"{len(path)} {path} {len(content)} ".encode() + content)
        return whole.hexdigest()

    def write(self, folder: Path) -> Path:
        """Writes the files below `folder` and returns the path of `main`; raises `OSError`."""
        for path, content in self.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return folder / self.main


def read_requirements(root: Path, path: str) -> Requirements:
    """The requirements in the file `path` of the workspace `root`.

    Raises `RequirementsError`, and `OSError` for a disk that fails.
    """
    name = PurePosixPath(path).name
    if name == _LOCK:
        project = str(PurePosixPath(path).with_name(_PROJECT))
        lock = {_LOCK: _read(root, path), _PROJECT: _read(root, project, f"{path} needs it")}
        return Requirements(_LOCK, lock, is_lock=True)
    if name == _PROJECT:
        return _listed(path, _of_project(path, _toml(path, _text(root, path))))
    if name.endswith(".py"):
        return _listed(path, _of_script(path, _text(root, path)))
    files: dict[str, bytes] = {}
    _collect(root, path, files)
    return Requirements(path, files)


def _listed(path: str, dependencies: Any) -> Requirements:
    """The requirements of a list of them."""
    if not isinstance(dependencies, list) or not all(isinstance(d, str) for d in dependencies):
        raise RequirementsError(f"{path}: its dependencies are not a list of texts")
    for dependency in dependencies:
        _check_line(dependency, path)
    lines = "".join(f"{' '.join(dependency.split())}\n" for dependency in sorted(dependencies))
    return Requirements("requirements.txt", {"requirements.txt": lines.encode()})


def _of_project(path: str, table: Mapping[str, Any]) -> Any:
    project = table.get("project")
    if not isinstance(project, dict):
        raise RequirementsError(f"{path} has no [project], whose dependencies would be installed")
    if "dependencies" in (project.get("dynamic") or ()):
        raise RequirementsError(
            f"{path}: its dependencies are dynamic: name the file that lists them, or install the "
            'project in `setup`: ["pip install ."]'
        )
    return project.get("dependencies", [])


def _of_script(path: str, text: str) -> Any:
    """The dependencies in the header of a script."""
    blocks = list(_blocks(text))
    if len(blocks) != 1:
        how_many = "no" if not blocks else "more than one"
        raise RequirementsError(
            f"{path} has {how_many} header of dependencies: `{_BLOCK_BEGINS}`, a line such as "
            f'`# dependencies = ["numpy"]`, and `{_BLOCK_ENDS}` (PEP 723)'
        )
    return _toml(path, blocks[0]).get("dependencies", [])


def _blocks(text: str) -> Iterator[str]:
    """The content of each header; the last `# ///` of the comment lines that follow ends it."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        number += 1
        if lines[number - 1].rstrip() != _BLOCK_BEGINS:
            continue
        end = number
        while end < len(lines) and (lines[end] == "#" or lines[end].startswith("# ")):
            end += 1
        comment = lines[number:end]
        closing = [n for n, line in enumerate(comment) if line.rstrip() == _BLOCK_ENDS]
        if closing:
            yield "\n".join(line[2:] for line in comment[: closing[-1]])
            number = end


def _collect(root: Path, path: str, files: dict[str, bytes]) -> None:
    """Reads a requirements file, and those that it includes, into `files`."""
    if path in files:
        return
    if len(files) >= _MAX_FILES:
        raise RequirementsError(f"{path}: more than {_MAX_FILES} files include each other")
    text = _text(root, path)
    files[path] = text.encode()
    for line in _lines(text):
        if (found := _INCLUDE.match(line)) is not None:
            included = (found[1] or found[2]).strip().strip("\"'")
            if not _URL.match(included):
                _collect(root, _within(path, included), files)
        else:
            _check_line(line, path)


def _lines(text: str) -> Iterator[str]:
    """The lines of a requirements file, joined where they go on, without comments."""
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        if bare := re.sub(r"(^|\s)#.*", "", line).strip():
            yield bare


def _check_line(line: str, path: str) -> None:
    """Raises `RequirementsError` for what lies in the workspace: other jobs share the result."""
    requirement = line.partition(";")[0].strip()
    if not _LOCAL.match(requirement):
        return
    raise RequirementsError(
        f"{path}: `{line}` names files of a machine, and the environment is shared with jobs that "
        "do not have them: install it in `setup`, such as "
        '["pip install --no-deps --editable ."]'
    )


def _within(path: str, included: str) -> str:
    """The path in the workspace of a file that the file at `path` includes."""
    parts: list[str] = []
    for part in PurePosixPath(path).parent.joinpath(included).parts:
        if part == "/" or (part == ".." and not parts):
            raise RequirementsError(f"{path} includes {included}, which is not in the workspace")
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _text(root: Path, path: str) -> str:
    try:
        return _read(root, path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequirementsError(f"{path} is not UTF-8") from None


def _read(root: Path, path: str, why: str = "") -> bytes:
    target = root / path
    # A link within the workspace may lead anywhere in it.
    if not target.is_file() or not target.resolve().is_relative_to(root.resolve()):
        reason = f" ({why})" if why else ""
        raise RequirementsError(f"the workspace has no file {path}{reason}")
    if target.stat().st_size > _MAX_BYTES:
        raise RequirementsError(f"{path} is larger than {_MAX_BYTES >> 20} MiB")
    return target.read_bytes()


def _toml(path: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RequirementsError(f"{path} is not valid TOML: {error}") from None
