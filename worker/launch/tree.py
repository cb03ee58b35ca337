"""The process tree of a job: which of its processes to ask when the job must stop (Linux).

A job's command is often a wrapper: a shell, a launcher, one end of a pipe. A wrapper that dies at
the first signal must not take the trainer below it along, and `tee` must read on until the trainer
has said its last word. So the processes that handle the signal are asked first; what has no handler
would only die, and is asked when those have ended. A wrapper that waits for one of them is stopped
until then: a shell would go on with its next command.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
# Fields of /proc/PID/stat, counted from the state, which comes after the name in brackets.
_STARTED_AT = 22 - 3
# Where the kernel keeps a process that waits for a child (/proc/PID/wchan).
_WAITS = "do_wait"
# torchrun, and what starts it (`accelerate launch`), sets this for the ranks that it starts.
_OF_A_RANK = "TORCHELASTIC_RUN_ID="
_SHELLS = frozenset({"sh", "ash", "bash", "busybox", "dash", "fish", "ksh", "mksh", "zsh"})


@dataclass(frozen=True)
class Process:
    """A process, told apart from a later one with the same id by the time of its start."""

    pid: int
    started_at: int  # clock ticks since the boot

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process with that id; None if it has ended."""
        try:
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[_STARTED_AT]))

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return Process.of(self.pid) == self

    def children(self) -> Iterator[Process]:
        """Its children; the kernel lists them by the thread that started them."""
        for pid in child_pids(self.pid):
            if (child := Process.of(pid)) is not None:
                yield child

    def handles(self, number: signal.Signals) -> bool:
        """Whether it has installed a handler for the signal."""
        for line in self._read("status").splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
        return False

    @property
    def is_wrapper(self) -> bool:
        """Whether it is a shell, or does nothing but wait for a child: it forwards no signal."""
        return self._read("comm").strip() in _SHELLS or self.waits_for_a_child

    @property
    def waits_for_a_child(self) -> bool:
        """Whether it does nothing, not even read what its child writes, until a child ends."""
        return self._read("wchan") == _WAITS

    @property
    def launches_ranks(self) -> bool:
        """Whether it is `torchrun`.

        It forwards SIGTERM to the process groups of its ranks, data loaders included, and a trainer
        whose data loader is killed raises an error.
        """
        if self._is_a_rank:
            return False
        return any(child._is_a_rank for child in self.children())

    @property
    def _is_a_rank(self) -> bool:
        return any(each.startswith(_OF_A_RANK) for each in self._read("environ").split("\0"))

    def _read(self, name: str) -> str:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return (_PROC / str(self.pid) / name).read_text()
        return ""


def child_pids(pid: int) -> Iterator[int]:
    """The ids of the children of a process."""
    with contextlib.suppress(OSError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                yield from (int(child) for child in (thread / "children").read_text().split())


def handlers(roots: Sequence[Process], number: signal.Signals) -> list[Process]:
    """The processes of these trees that have a handler for the signal, parents first.

    What is below one of them is its own business (a launcher forwards the signal, a trainer ends
    its data loaders), unless it is a wrapper or `torchrun`.
    """
    found: list[Process] = []
    for process in roots:
        handles, launches = process.handles(number), process.launches_ranks
        passes = not handles or launches or process.is_wrapper
        inner = handlers(list(process.children()), number) if passes else []
        # A Python wrapper that is interrupted by SIGINT kills the child that it waits for.
        if handles and not (inner and (launches or number is signal.SIGINT)):
            found.append(process)
        found.extend(inner)
    return found


def waiting_wrappers(roots: Sequence[Process], chosen: Set[Process]) -> list[Process]:
    """The processes of these trees that wait for a child with one of the `chosen` below it."""
    found: list[Process] = []
    for process in roots:
        if process in chosen:
            continue
        below = list(process.children())
        if process.waits_for_a_child and not chosen.isdisjoint(everything(below)):
            found.append(process)
        found.extend(waiting_wrappers(below, chosen))
    return found


def everything(roots: Sequence[Process]) -> list[Process]:
    """All processes of these trees, parents first."""
    found = list(roots)
    for process in roots:
        found.extend(everything(list(process.children())))
    return found


class StopRequest:
    """Asks the processes of a tree to stop, each once: in rounds, one when the last has ended.

    `told`: they have the signal from elsewhere, as has every process of a machine that shuts down.
    """

    def __init__(
        self, roots: Callable[[], list[Process]], number: signal.Signals, *, told: bool
    ) -> None:
        self._roots = roots
        self._number = number
        self._asked: set[Process] = set()
        self.is_handled = False  # by some process of the tree
        self._round: dict[Process, int | None] = {}  # still running, with a descriptor if possible
        self._launchers: list[Process] = []
        self._ask(told)

    @property
    def descriptors(self) -> list[int]:
        """Descriptors that become readable when a process of this round ends."""
        return [each for each in self._round.values() if each is not None]

    @property
    def must_poll(self) -> bool:
        """Whether the kernel cannot tell the end of every process of this round."""
        return None in self._round.values()

    def proceed(self) -> None:
        """Begins the next round if the processes of the last one have ended."""
        for process in [each for each in self._round if not each.is_running]:
            descriptor = self._round.pop(process)
            if descriptor is not None:
                os.close(descriptor)
            # At the first rank that ends, torchrun would kill those that still save.
            while self._launchers:
                _send(self._launchers.pop(), signal.SIGSTOP)
        if not self._round:
            self._ask()

    def _ask(self, told: bool = False) -> None:
        """Asks those with a handler; if there are none, all that are left."""
        roots = self._roots()
        everybody = everything(roots)
        chosen = [each for each in handlers(roots, self._number) if each not in self._asked]
        if chosen and not told:
            for wrapper in waiting_wrappers(roots, set(chosen)):
                _send(wrapper, signal.SIGSTOP)
            self._launchers = [
                each for each in everybody if each not in chosen and each.launches_ranks
            ]
        self.is_handled = self.is_handled or bool(chosen)
        chosen = chosen or [each for each in everybody if each not in self._asked]
        for process in chosen:
            try:
                descriptor: int | None = os.pidfd_open(process.pid)
            except OSError:
                descriptor = None  # it has ended, or an old kernel
            self._round[process] = descriptor
            if not told:
                _send(process, self._number)
                _send(process, signal.SIGCONT)
        self._asked.update(everybody if told else chosen)


def _send(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
