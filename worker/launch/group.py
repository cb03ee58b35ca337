"""The control group of a job's program, so that the kernel kills it alone for lack of memory.

The worker and the guard stay outside: they report the end. Where the worker's group cannot be
divided (`machine.control_groups`), the program shares it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from machine.control_groups import divided_group, remove
from worker.losses.memory import counts, held, limit_around, oom_kills

log = logging.getLogger(__name__)

# During an upload, a worker with its witness, guard and fork server holds 340 MiB, and 30 MiB more
# than before it (docs/decisions/0047).
_WORKER_BYTES = 512 << 20
_UPLOAD_BYTES = 128 << 20
_PREFIX = "attempt-"
_SOMEWHERE = "killed by the kernel: the machine or the container is out of memory"


class Group(Protocol):
    """Where a program runs, and what the kernel killed there."""

    @property
    def path(self) -> Path | None:
        """The folder of the group that the program joins; None for that of the worker."""

    def out_of_memory(self) -> str:
        """Says that the kernel has killed a process there for lack of memory; '' if it has not."""


class SharedGroup:
    """The worker's own group."""

    path: Path | None = None

    def __init__(self) -> None:
        self._kills = oom_kills()

    def out_of_memory(self) -> str:
        """As `Group`; the kernel counts for the whole group, or for the machine."""
        return _SOMEWHERE if oom_kills() != self._kills else ""


class OwnGroup:
    """A group for one attempt, within the divided group; raises `OSError` if it cannot be made.

    `limit` is the memory that the program may use, in bytes; None for any. `processes`: how many it
    may have, with threads; 0 for any number.
    """

    def __init__(self, around: Path, name: str, processes: int = 0) -> None:
        limit = limit_around(around)
        self._around = limit
        self.limit = None if limit is None else share_of_job(limit, _held_elsewhere(around))
        folder = around / f"{_PREFIX}{name}.{os.getpid()}"
        self.path: Path | None = folder
        folder.mkdir()
        try:
            # A program of which some processes are missing may wait for them for ever.
            (folder / "memory.oom.group").write_text("1")
            if self.limit is not None:
                (folder / "memory.max").write_text(str(self.limit))
            if processes and (folder / "pids.max").exists():
                (folder / "pids.max").write_text(str(processes))
        except OSError:
            remove(folder)
            raise

    def out_of_memory(self) -> str:
        """As `Group`; the kernel counts for this program alone."""
        seen = {} if self.path is None else counts(self.path / "memory.events")
        if not seen.get("oom_kill"):
            return ""
        if self.limit is None or self._around is None or not seen.get("oom"):
            return _SOMEWHERE
        return (
            f"killed by the kernel: the program reached its memory limit, {_gib(self.limit)} of "
            f"the {_gib(self._around)} GiB that it shares with its worker"
        )


@contextlib.contextmanager
def group_of_attempt(name: str, processes: int = 0) -> Iterator[Group]:
    """The group for the program of an attempt, until all its processes have ended.

    `processes`: how many it may have; 0 for any number.
    """
    around = divided_group()
    own: OwnGroup | None = None
    if around is not None:
        remove_left(around)
        try:
            own = OwnGroup(around, name, processes)
        except OSError as error:
            log.warning("%s: its program shares the worker's control group: %s", name, error)
    try:
        yield own or SharedGroup()
    finally:
        if own is not None and own.path is not None:
            remove(own.path)


def remove_left(around: Path) -> None:
    """Removes the groups of attempts that no living worker runs, except those with processes."""
    for folder in _attempts(around):
        pid = folder.name.rpartition(".")[2]
        if pid == str(os.getpid()) or not Path("/proc", pid).exists():
            remove(folder)


def share_of_job(limit: int, elsewhere: int) -> int:
    """How many bytes of the limit around it a program may use, at least half.

    `elsewhere` is what others hold within that limit before the program starts.
    """
    return max(limit - max(_WORKER_BYTES, elsewhere + _UPLOAD_BYTES), limit // 2)


def _held_elsewhere(around: Path) -> int:
    """What the service holds, and what earlier programs have left, as in `/dev/shm`."""
    return max(0, held(around) - sum(held(folder) for folder in _attempts(around)))


def _attempts(around: Path) -> list[Path]:
    return list(around.glob(f"{_PREFIX}*"))


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.2f}"
