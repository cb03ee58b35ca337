"""What `ps` shows of a process that was forked: the command that it runs (Linux)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

# Fields of /proc/self/stat, counted from the third, which comes after the name in brackets.
_ARGUMENTS_START, _ARGUMENTS_END, _ENVIRONMENT_END = 48 - 3, 49 - 3, 51 - 3


def set_title(command: Sequence[str]) -> None:
    """Shows this command for this process.

    It is written over the arguments and the environment that the process was started with, so
    `os.environ` must have been filled anew, or nobody may need it any more.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end, room_end = (
        int(fields[index]) for index in (_ARGUMENTS_START, _ARGUMENTS_END, _ENVIRONMENT_END)
    )
    room = room_end - start
    # Where the arguments do not end with a zero the kernel shows one text, up to the next zero.
    text = os.fsencode(" ".join(command))[: room - 1].ljust(end - start)
    ctypes.memset(start, 0, room)
    ctypes.memmove(start, text, min(len(text), room - 1))
