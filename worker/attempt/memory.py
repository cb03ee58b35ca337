"""Whether the kernel killed for want of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def oom_kills() -> int | None:
    """How many processes of this one's control group the kernel has killed so far.

    Those of the machine where the kernel counts no closer, and None where it won't tell. Whose
    process it was it does not say: it tells something only of one that was killed by SIGKILL at
    the time when the counter moved.
    """
    for counter in (*own_counters(), Path("/proc/vmstat")):
        with suppress(OSError, ValueError):
            words = dict(line.split(maxsplit=1) for line in counter.read_text().splitlines())
            if "oom_kill" in words:
                return int(words["oom_kill"])
    return None


def own_counters() -> Iterator[Path]:
    """Where the kernel counts for this process's group, of both versions of control groups."""
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
