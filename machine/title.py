"""Sets the command that `ps` shows for a forked process (Linux)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

# Fields of /proc/self/stat, counted from the third, which comes after the name in brackets.
_ARGUMENTS_START, _ARGUMENTS_END, _ENVIRONMENT_END = 48 - 3, 49 - 3, 51 - 3


def set_title(command: Sequence[str]) -> None:
    """Makes `ps` show this command for this process.

    It overwrites the arguments and the environment that the process was started with. Call it only
    after `os.environ` was filled anew, or when nothing reads it any more.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end, room_end = (
        int(fields[index]) for index in (_ARGUMENTS_START, _ARGUMENTS_END, _ENVIRONMENT_END)
    )
    room = room_end - start
    # If the arguments do not end with a zero byte, the kernel shows the text up to the next one.
    text = os.fsencode(" ".join(command))[: room - 1].ljust(end - start)
    ctypes.memset(start, 0, room)
    ctypes.memmove(start, text, min(len(text), room - 1))
