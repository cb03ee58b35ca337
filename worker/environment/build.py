"""Builds the environment of a job in the cache of this machine, once for all that have the same.

pip installs on top of the interpreter beneath: what that has is used, and its torch in any case,
which fits the GPUs of the machine. uv does not see the packages of another environment, so it only
reads its own lock.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from jobs.errors import SpectrainError
from machine.ownership import give
from machine.trees import remove_tree
from worker.cache.cache import Building, Cache, Held
from worker.environment.layer import layer_at, make_layer
from worker.environment.python import Python
from worker.environment.requirements import Requirements

KIND = "environment"
# Changes whenever an environment would be built in another way.
_LAYOUT = "1"
_PYTHON = "python"
_FILES = "requirements"
_TORCH = "torch.txt"  # in the entry's directory
_FULL = re.compile(r"No space left on device|Disk quota exceeded|os error 28\b|errno 122", re.I)
_AWAY = re.compile(
    r"Retrying \(Retry\(|NewConnectionError|ConnectTimeout|ReadTimeout|Connection (refused|reset|"
    r"timed out|broken)|Temporary failure in name resolution|Network is unreachable|"
    r"Max retries exceeded|\b5\d\d (Server Error|Service Unavailable|Bad Gateway)|"
    r"HTTP error 5\d\d|RemoteDisconnected|IncompleteRead"
)
_ERROR, _CONFLICT = "ERROR: ", "The conflict is caused by:"
# Runs a command with these variables in a directory, with descriptors that it inherits; returns its
# exit code and the lines that it printed. Raises `Unwanted` when the attempt is asked to stop.
Run = Callable[[Sequence[str], Mapping[str, str], Path, Sequence[int]], tuple[int, Sequence[str]]]


class BuildError(SpectrainError):
    """A command of the build failed with `exit_code`, after the `lines` that it printed."""

    def __init__(self, exit_code: int, lines: Sequence[str]) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code
        self.lines = lines


def refusal(lines: Sequence[str]) -> str:
    """Why pip installs nothing, by its output: its first error, and what is in conflict.

    '' if it does not say. Its last line is about where to find help.
    """
    first = next((line for line in lines if line.startswith(_ERROR)), "")
    conflict: list[str] = []
    if _CONFLICT in lines:
        for line in lines[lines.index(_CONFLICT) + 1 :]:
            if not line.startswith(" "):
                break
            conflict.append(line.strip())
    return " ".join(filter(None, [first.removeprefix(_ERROR), "; ".join(conflict)]))


def is_away(lines: Sequence[str]) -> bool:
    """Whether the output of an installation says that the package index was out of reach."""
    return any(_AWAY.search(line) for line in lines)


class Builder:
    """Builds environments for jobs that run with the variables `env`, by commands that `run`.

    `owner`: the user that the commands run as, if it is not this process's.
    """

    def __init__(
        self, beneath: Python, env: Mapping[str, str], run: Run, owner: int | None = None
    ) -> None:
        self._owner = owner
        self._beneath = beneath
        self._env = env
        self._run = run

    def key(self, requirements: Requirements) -> str:
        """The hash of all that decides what is installed."""
        settings = sorted(f"{k}={v}" for k, v in self._env.items() if k.startswith(("PIP_", "UV_")))
        parts = [_LAYOUT, self._beneath.fingerprint(), requirements.digest, *settings]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def use(
        self,
        cache: Cache,
        requirements: Requirements,
        *,
        wanted: Callable[[], bool],
        on_wait: Callable[[], None],
        on_build: Callable[[], None],
    ) -> tuple[Held, Python] | None:
        """The environment, which is built unless this machine has it; None if not `wanted`.

        `on_wait` is called if another worker builds it, `on_build` when this one begins to. Raises
        `BuildError`, `CacheFullError` and `OSError`.
        """

        def build(building: Building) -> None:
            on_build()
            self._build(building, requirements)

        held = cache.use(
            KIND,
            self.key(requirements),
            build,
            durable=True,
            wanted=wanted,
            on_wait=on_wait,
        )
        return None if held is None else (held, layer_at(held.path / _PYTHON, self._beneath))

    def _build(self, building: Building, requirements: Requirements) -> None:
        layer = make_layer(building.path / _PYTHON, self._beneath)
        # Relative, as the commands run there: pip names the file in each line.
        main = requirements.write(building.path / _FILES).relative_to(building.path)
        temporary = building.path / "tmp"
        temporary.mkdir()
        env = {
            **self._env,
            "PATH": f"{layer.executable.parent}:{self._env['PATH']}",
            "VIRTUAL_ENV": str(building.path / _PYTHON),
            "TMPDIR": str(temporary),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            # They would install elsewhere.
            "PIP_USER": "0",
            "PIP_REQUIRE_VIRTUALENV": "0",
        }
        for name in ("PIP_TARGET", "PIP_PREFIX", "PYTHONPATH", "PYTHONHOME"):
            env.pop(name, None)
        torch = self._beneath.version_of("torch")
        if torch is not None:
            (building.path / _TORCH).write_text(f"torch=={torch}\n")
        give(building.path, self._owner)
        for command in self._commands(layer, requirements, main, torch):
            code, lines = self._run(command, env, building.path, (building.lock,))
            if code != 0:
                if any(_FULL.search(line) for line in lines):
                    raise OSError(errno.ENOSPC, "the disk is full")
                raise BuildError(code, lines)
        remove_tree(temporary)
        if self._owner is not None:
            give(building.path, os.geteuid())

    def _commands(
        self, layer: Python, requirements: Requirements, main: Path, torch: str | None
    ) -> Iterator[Sequence[str]]:
        python = str(layer.executable)
        if self._beneath.version_of("pip") is None:
            yield [python, "-m", "ensurepip"]
        install = [python, "-m", "pip", "install"]
        if requirements.is_lock:
            listed = main.with_name("locked.txt")
            prune = [] if torch is None else ["--prune", "torch"]
            yield [
                "uv", "export", "--frozen", "--no-dev", "--no-emit-local", "--no-hashes",
                "--no-annotate", "--no-header", "--quiet", *prune,
                "--project", str(main.parent), "--output-file", str(listed),
            ]  # fmt: skip
            yield [*install, "--no-deps", "--requirement", str(listed)]
            return
        if torch is not None:
            install += ["--constraint", _TORCH]
        yield [*install, "--requirement", str(main)]
