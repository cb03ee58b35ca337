"""Finds the files that a program has open for writing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_PROC = Path("/proc")


def open_for_writing(root: Path) -> set[str]:
    """The files below `root` that any process has open for writing, by path.

    Processes that this one may not look into are left out. Where there is no `/proc`, the answer
    is empty.
    """
    found: set[str] = set()
    prefix = f"{root.resolve()}/"
    with contextlib.suppress(OSError):
        for process in os.scandir(_PROC):
            if process.name.isdigit() and process.name != str(os.getpid()):
                with contextlib.suppress(OSError):
                    found.update(_of(process.path, prefix))
    return found


def _of(process: str, prefix: str) -> set[str]:
    found = set()
    with os.scandir(f"{process}/fd") as descriptors:
        for descriptor in descriptors:
            with contextlib.suppress(OSError, ValueError):
                target = os.readlink(descriptor.path)  # noqa: PTH115 - a path of text is enough
                if target.startswith(prefix) and _writes(f"{process}/fdinfo/{descriptor.name}"):
                    found.add(target.removeprefix(prefix))
    return found


def _writes(info: str) -> bool:
    """Whether a descriptor was opened for writing, by its flags in octal digits."""
    for line in Path(info).read_text().splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    return False
