"""Sets the command and the environment that `ps` shows for a forked process (Linux)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

# Fields of /proc/self/stat, counted from the third, which comes after the name in brackets.
_ARGUMENTS_START, _ARGUMENTS_END, _ENVIRONMENT_END = 48 - 3, 49 - 3, 51 - 3


# Whose job a process is: the variables to show if there is no room for all.
_FIRST = "SPECTRAIN_"


def set_title(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Makes `ps` show this command for this process, and as much of the environment as fits.

    It overwrites the arguments and the environment that the process was started with. Call it only
    after `os.environ` was filled anew, or when nothing reads it any more.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end, room_end = (
        int(fields[index]) for index in (_ARGUMENTS_START, _ARGUMENTS_END, _ENVIRONMENT_END)
    )
    room = room_end - start
    # If the arguments do not end with a zero byte, the kernel shows the text up to the next one.
    text = os.fsencode(" ".join(command))[: room - 2]
    # An environment that began with the zero byte after the text would read as an empty one.
    text = text.ljust(end - start + (1 if len(text) >= end - start else -1)) + b"\0"
    for name, value in sorted((environment or {}).items(), key=_after_ours):
        pair = os.fsencode(f"{name}={value}") + b"\0"
        if len(text) + len(pair) <= room:
            text += pair
    ctypes.memset(start, 0, room)
    ctypes.memmove(start, text, len(text))


def _after_ours(variable: tuple[str, str]) -> tuple[bool, str]:
    return not variable[0].startswith(_FIRST), variable[0]
