"""Decides which commands are Python programs that can run in a forked process.

A forked process has its interpreter and libraries already loaded. It cannot change the variables
that they read at start, nor replace the modules that they have imported: a command that depends on
either starts as a process of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from worker.launch.command import Launch

# Read at start by Python, the C library, OpenMP and BLAS, torch and CUDA, numpy, matplotlib.
_READ_AT_START = re.compile(
    r"(PYTHON|LD_|LC_|LANG|MALLOC_|GLIBC_"
    r"|OMP_|GOMP_|KMP_|MKL_|OPENBLAS_|GOTO_|BLIS_|DNNL_|ONEDNN_|ATEN_|NPY_|NUMPY_"
    r"|TORCH|PYTORCH|TRITON_|CUDA_(?!VISIBLE_DEVICES$)|CUBLAS_|CUDNN_|NCCL_|NVIDIA_"
    r"|MPL|MATPLOTLIB|XDG_|HOME$|TZ$|TMPDIR$)"
)
WORKLOAD = "spectral_gpt"


@dataclass(frozen=True)
class Program:
    """A Python program: the interpreter, and a module or a script with arguments."""

    executable: str
    command: list[str]
    arguments: list[str]
    module: str | None = None
    script: str | None = None
    safe_path: bool = False  # it imports nothing from its own directory

    @classmethod
    def of(cls, launch: Launch) -> Program | None:
        """The program, if the command runs it with this Python and no flag but -u or -P."""
        executable = _this_python(launch)
        arguments = launch.command[1:]
        safe_path = bool(launch.env.get("PYTHONSAFEPATH"))
        while arguments and arguments[0] in {"-u", "-P"}:
            safe_path = safe_path or arguments[0] == "-P"
            arguments = arguments[1:]
        if executable is None or not arguments:
            return None
        if arguments[0] == "-m":
            if len(arguments) < 2:
                return None
            rest, module = arguments[2:], arguments[1]
            return cls(executable, launch.command, rest, module=module, safe_path=safe_path)
        if arguments[0].startswith("-") or not arguments[0].endswith(".py"):
            return None
        rest, script = arguments[1:], arguments[0]
        return cls(executable, launch.command, rest, script=script, safe_path=safe_path)


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that only take effect if they are set at start."""
    return {name: value for name, value in environment.items() if _READ_AT_START.match(name)}


def is_shadowed(imported: Set[str], directory: Path | None, cwd: Path) -> bool:
    """Whether a program would import its own modules instead of some that are already imported.

    `imported` has the names of packages and modules; `directory` is the first to be searched, if
    the program has a directory of its own.
    """
    try:
        entries = () if directory is None else os.scandir(directory)
        own = {entry.name.partition(".")[0] for entry in entries}
    except OSError:
        return True
    return not own.isdisjoint(imported) or (cwd / "matplotlibrc").exists()


def _this_python(launch: Launch) -> str | None:
    """The full path of the command's executable if it is the running Python."""
    name, path = launch.command[0], launch.env.get("PATH", os.defpath)
    if "/" in name and not name.startswith("/"):
        return None
    # Relative to the program's working directory, as `exec` would search it.
    directories = [os.path.join(launch.cwd, entry) for entry in path.split(os.pathsep)]  # noqa: PTH118
    found, own = shutil.which(name, path=os.pathsep.join(directories)), Path(sys.executable)
    if found is None or Path(found).parent != own.parent:
        return None
    return found if Path(found).resolve() == own.resolve() else None
