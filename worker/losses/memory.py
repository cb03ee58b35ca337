"""Memory: the kernel's counters of processes that it killed for lack of it, and what is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from machine.control_groups import divided_group, groups_around, own_group

_GROUPS = Path("/sys/fs/cgroup")
_MACHINE = Path("/proc/vmstat")
# A control group that was less full a second before did not kill for lack of memory.
_FULL = 0.5
# Memory that the kernel cannot take back from a group without swap (memory.stat).
_HELD = ("anon", "shmem", "kernel")


def oom_kills() -> int | None:
    """How many processes of this process's control group the kernel has killed so far.

    The machine's count if there is none for the group; None if the kernel reports neither. The
    counter does not say which process was killed: it only supports the guess about a process that
    ended by SIGKILL while the counter moved.
    """
    found = (_kills(counter) for counter in (*own_counters(), _MACHINE))
    return next((kills for kills in found if kills is not None), None)


def own_counters() -> Iterator[Path]:
    """The counter files of this process's control group, for both versions of control groups.

    Of a group that the service has divided, they count all of it.
    """
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            within = path.lstrip("/")
            if "memory" in controllers.split(","):
                # A container may see its own group as the root of the tree.
                yield _GROUPS / "memory" / within / "memory.oom_control"
                yield _GROUPS / "memory" / "memory.oom_control"
            elif number == "0":
                yield (divided_group() or _GROUPS / within) / "memory.events"
                yield _GROUPS / "memory.events"


@dataclass(frozen=True)
class Memory:
    """The memory of this process's control group and machine at one time, as far as known.

    `group` identifies the control group, whose counter starts at 0 with each new container.
    """

    group: int | None
    group_kills: int | None
    machine_kills: int | None
    used: float  # share of the group's limit, or of the machine's memory; the larger of the two

    @classmethod
    def now(cls) -> Memory:
        """The present state."""
        group, kills = None, None
        for counter in own_counters():
            if (found := _kills(counter)) is not None:
                with suppress(OSError):
                    group, kills = counter.parent.stat().st_ino, found
                break
        used = max(_used_of_group(), _used_of_machine())
        return cls(group, kills, _kills(_MACHINE), used)

    def was_exceeded(self) -> bool:
        """Whether the kernel has killed for lack of memory since this was the state.

        Ask it of processes that were all killed at once, in the same run of the kernel. In the same
        control group its counter says so. In a new one, as that of a restarted container, the
        machine's counter does, if the old one was at least half full: it counts all containers.
        """
        now = Memory.now()
        if self.group is not None and self.group == now.group:
            return (now.group_kills or 0) > (self.group_kills or 0)
        moved = (now.machine_kills or 0) > (self.machine_kills or 0)
        return moved and self.used >= _FULL


def counts(path: Path) -> dict[str, int]:
    """The numbers in a file of the kernel that has a name and a number on each line."""
    with suppress(OSError, ValueError):
        pairs = (line.split(maxsplit=1) for line in path.read_text().splitlines())
        return {name: int(number) for name, number in pairs}
    return {}


def limit_around(group: Path) -> int | None:
    """The smallest memory limit of a group and those around it, in bytes; None without one."""
    limits = (_number(folder / "memory.max") for folder in groups_around(group))
    return min((limit for limit in limits if limit is not None), default=None)


def held(group: Path) -> int:
    """The bytes of memory in a group that the kernel cannot take back, roughly."""
    found = counts(group / "memory.stat")
    return sum(found.get(name, 0) for name in _HELD)


def _kills(counter: Path) -> int | None:
    return counts(counter).get("oom_kill")


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _used_of_group() -> float:
    """The share of its limit that the control group, or one around it, uses; 0 without a limit."""
    folders = [(counter.parent, "memory.usage_in_bytes", "memory.limit_in_bytes")
               for counter in own_counters()]  # fmt: skip
    if (own := own_group()) is not None:
        folders += [(each, "memory.current", "memory.max") for each in groups_around(own)]
    shares = [0.0]
    for folder, used, limit in folders:
        now, most = _number(folder / used), _number(folder / limit)
        if now is not None and most:
            shares.append(now / most)
    return max(shares)


def _used_of_machine() -> float:
    with suppress(OSError, ValueError, KeyError, ZeroDivisionError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
        return 1 - sizes["MemAvailable"] / sizes["MemTotal"]
    return 0.0
