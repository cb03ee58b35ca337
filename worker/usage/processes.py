"""Processor time and memory of a tree of processes (Linux)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Fields of /proc/PID/stat from the state on, which comes after the name in brackets: the time of
# the process in user mode and in the kernel, and the same of its children that have ended.
_TIMES = slice(14 - 3, 18 - 3)


@dataclass(frozen=True)
class TreeUsage:
    """What a tree of processes has used, and uses now."""

    cpu_seconds: float
    memory_bytes: int


def usage_below(root: int) -> TreeUsage:
    """The usage of a process and all below it; zeros once it has ended.

    A process that ends leaves its time to the one that waited for it. So the time of the tree never
    falls while its root lives and takes in what loses its parent, as the guard of a job does.
    Memory that processes share counts once: that of the process which shares most.
    """
    ticks, own_pages, shared_pages = 0, 0, 0
    for pid in _tree(root):
        try:
            fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
            resident, shared = map(int, (_PROC / str(pid) / "statm").read_bytes().split()[1:3])
        except (OSError, ValueError):  # it has ended
            continue
        ticks += sum(map(int, fields[_TIMES]))
        own_pages += resident - shared
        shared_pages = max(shared_pages, shared)
    return TreeUsage(ticks / _TICKS, (own_pages + shared_pages) * _PAGE_BYTES)


def _tree(root: int) -> Iterator[int]:
    """The ids of a process and of all below it; the kernel lists children by thread."""
    left = [root]
    while left:
        pid = left.pop()
        yield pid
        with contextlib.suppress(OSError):  # it has ended
            for thread in (_PROC / str(pid) / "task").iterdir():
                with contextlib.suppress(OSError):
                    left.extend(map(int, (thread / "children").read_bytes().split()))
