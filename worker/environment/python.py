"""A Python interpreter and its packages, as the layers on top of it need to know them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from jobs.errors import SpectrainError

_ANSWER_SECONDS = 60.0
_PACKAGES = ("site-packages", "dist-packages")
# Runs a program that gets no rights from programs such as sudo (prctl(2), PR_SET_NO_NEW_PRIVS).
_CONFINED = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
_QUESTION = """
import json, sys
base = getattr(sys, "_base_executable", None) or sys.executable
print(json.dumps([sys.executable, base, list(sys.version_info[:3]), sys.path]))
"""


class InterpreterError(SpectrainError):
    """An interpreter that a job names cannot be used; the message says why."""


@dataclass(frozen=True)
class Python:
    """An interpreter: `executable` as it is called, and `base`, of which it is an environment.

    `packages` are its directories of packages; the first that has a package wins.
    """

    executable: Path
    base: Path
    version: tuple[int, int, int]
    packages: tuple[Path, ...]

    @classmethod
    def of_this_process(cls) -> Self:
        """The worker's own."""
        base = getattr(sys, "_base_executable", None) or sys.executable
        return cls._of(sys.executable, base, list(sys.version_info[:3]), sys.path)

    @classmethod
    def at(cls, path: str, env: Mapping[str, str], uid: int | None = None) -> Self:
        """The one at `path`, which user `uid` runs; raises `InterpreterError`."""
        # -I: what the job sets, and files in this directory, are not to change its answer.
        command = [path, "-I", "-c", _QUESTION]
        try:
            groups: list[int] | None = None
            if uid is not None:
                groups, command = [], [sys.executable, "-I", "-S", "-c", _CONFINED, *command]
            said = subprocess.run(
                command, env=dict(env), capture_output=True, timeout=_ANSWER_SECONDS, check=False,
                cwd="/", user=uid, group=uid, extra_groups=groups,
            )  # fmt: skip
            return cls._of(*json.loads(said.stdout.splitlines()[-1]))
        except OSError as error:
            why = error.strerror
        except subprocess.TimeoutExpired:
            why = f"it does not answer within {_ANSWER_SECONDS:.0f} s"
        except (ValueError, TypeError, IndexError):
            lines = said.stderr.decode(errors="replace").split("\n")
            why = next(filter(None, reversed(lines)), "it does not answer as a Python does")
        raise InterpreterError(f"python: this worker cannot use {path}: {why}")

    @classmethod
    def _of(cls, executable: str, base: str, version: list[int], path: list[str]) -> Self:
        major, minor, micro = version
        packages = (Path(folder) for folder in path if Path(folder).name in _PACKAGES)
        found = tuple(dict.fromkeys(folder for folder in packages if folder.is_dir()))
        return cls(Path(executable), Path(base), (major, minor, micro), found)

    @property
    def short_version(self) -> str:
        """Such as `3.11`."""
        return f"{self.version[0]}.{self.version[1]}"

    def installed(self) -> Iterator[tuple[str, str]]:
        """Name and version of each package, the name as in its file's name."""
        for record in self.records():
            name, _, version = record.stem.partition("-")
            yield name, version

    def records(self) -> Iterator[Path]:
        """The directory that describes each installed package; the first of a name counts."""
        seen = set()
        for folder in self.packages:
            for record in sorted(folder.glob("*.dist-info")):
                if (name := record.stem.partition("-")[0].lower()) not in seen:
                    seen.add(name)
                    yield record

    def version_of(self, name: str) -> str | None:
        """The version of an installed package; None if it is not there."""
        return next((v for found, v in self.installed() if found.lower() == name), None)

    def fingerprint(self) -> str:
        """What tells this interpreter with its packages from another one."""
        parts = [str(self.executable), str(self.base.resolve()), *map(str, self.version)]
        parts += [f"{name} {version}" for name, version in self.installed()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
