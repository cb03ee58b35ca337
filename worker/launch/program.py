"""Which commands are Python programs that can run in a process that was forked.

Such a process has its interpreter and its libraries already. What they read when they were
loaded cannot be changed any more, and what they have imported cannot be replaced: a command for
which that would make a difference is started as a process of its own.
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

# Read at the start by Python, the C library, OpenMP and BLAS, torch and CUDA, numpy, matplotlib.
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
        """The program that a command starts with this very Python and no flags but `-u`, `-P`."""
        executable = _this_python(launch.command[0], launch.env.get("PATH"))
        words = launch.command[1:]
        safe_path = bool(launch.env.get("PYTHONSAFEPATH"))
        while words and words[0] in {"-u", "-P"}:
            safe_path = safe_path or words[0] == "-P"
            words = words[1:]
        if executable is None or not words:
            return None
        if words[0] == "-m":
            if len(words) < 2:
                return None
            return cls(executable, launch.command, words[2:], module=words[1], safe_path=safe_path)
        if words[0].startswith("-") or not words[0].endswith(".py"):
            return None
        return cls(executable, launch.command, words[1:], script=words[0], safe_path=safe_path)


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """Those variables that count only when they are there from the start."""
    return {name: value for name, value in environment.items() if _READ_AT_START.match(name)}


def is_shadowed(imported: Set[str], directory: Path | None, cwd: Path) -> bool:
    """Whether a program would find something of its own in place of what is imported already.

    `imported` are the names of packages and modules, `directory` is where it looks first, if it
    has a directory of its own.
    """
    try:
        entries = () if directory is None else os.scandir(directory)
        own = {entry.name.partition(".")[0] for entry in entries}
    except OSError:
        return True
    return not own.isdisjoint(imported) or (cwd / "matplotlibrc").exists()


def _this_python(name: str, path: str | None) -> str | None:
    """The full name of an executable that is the running Python."""
    if "/" in name and not name.startswith("/"):
        return None
    found, own = shutil.which(name, path=path), Path(sys.executable)
    if found is None or Path(found).parent != own.parent:
        return None
    return found if Path(found).resolve() == own.resolve() else None
