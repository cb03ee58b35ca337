"""Processes of others, which may end at any time."""

from __future__ import annotations

import psutil


def command_line(process: psutil.Process) -> list[str]:
    """The words of a process; none if it has ended."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
