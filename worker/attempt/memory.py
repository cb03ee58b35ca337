"""The kernel's counter of processes killed for lack of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def oom_kills() -> int | None:
    """How many processes of this process's control group the kernel has killed so far.

    The machine's count if there is none for the group; None if the kernel reports neither. The
    counter does not say which process was killed: it only supports the guess about a process that
    ended by SIGKILL while the counter moved.
    """
    for counter in (*own_counters(), Path("/proc/vmstat")):
        with suppress(OSError, ValueError):
            fields = dict(line.split(maxsplit=1) for line in counter.read_text().splitlines())
            if "oom_kill" in fields:
                return int(fields["oom_kill"])
    return None


def own_counters() -> Iterator[Path]:
    """The counter files of this process's control group, for both versions of control groups."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            within = path.lstrip("/")
            if "memory" in controllers.split(","):
                # A container may see its own group as the root of the tree.
                yield _GROUPS / "memory" / within / "memory.oom_control"
                yield _GROUPS / "memory" / "memory.oom_control"
            elif number == "0":
                yield _GROUPS / within / "memory.events"
                yield _GROUPS / "memory.events"
