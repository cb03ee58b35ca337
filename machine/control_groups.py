"""The control group of this process, and how one of our own is divided (Linux, version 2).

A group that is divided has its processes in child groups: the service's own in one, each job's
program in another. The kernel then limits the memory of a job alone, and kills a job alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
# The child group of the service's own processes.
SERVICE = "spectrain"
# systemd sets these on a group that it leaves to its processes (`Delegate=`).
_DELEGATED = ("user.delegate", "trusted.delegate")


@dataclass(frozen=True)
class Division:
    """A divided group; without one, `why` says what prevents it."""

    group: Path | None
    why: str = ""


def own_group(root: Path = ROOT, membership: str | None = None) -> Path | None:
    """The folder of this process's group of version 2; None if there is none to be seen.

    `membership`: the content of `/proc/self/cgroup`.
    """
    if membership is None:
        try:
            membership = (_PROC / "self/cgroup").read_text()
        except OSError:
            return None
    for line in membership.splitlines():
        if line.startswith("0::"):
            folder = root / line.removeprefix("0::").lstrip("/")
            return folder if (folder / "cgroup.controllers").exists() else None
    return None


def divided_group(root: Path = ROOT, membership: str | None = None) -> Path | None:
    """The group that this service has divided, if this process is in its child group."""
    own = own_group(root, membership)
    if own is None or own.name != SERVICE or own == root:
        return None
    return own.parent if "memory" in _words(own.parent / "cgroup.subtree_control") else None


def counts_processes(group: Path | None) -> bool:
    """Whether the groups within a divided group count their processes."""
    return group is not None and "pids" in _words(group / "cgroup.subtree_control")


def divide(root: Path = ROOT, membership: str | None = None) -> Division:
    """Divides the group of this process, if it belongs to this process and those that started it.

    Moves them to the child group `spectrain`. Otherwise, changes nothing. Call it before this
    process starts others; those share the child group.
    """
    own = own_group(root, membership)
    if own is None:
        return Division(None, "there are no control groups of version 2")
    group = own.parent if own.name == SERVICE and own != root else own
    if (why := _prevents(group, root)) is not None:
        return Division(None, why)
    if group == own:
        return _move(group)
    try:
        _enable_memory(group)
    except OSError as error:
        return Division(None, _refused(error))
    return Division(group)


def join(group: Path) -> None:
    """Moves this process to the group; without effect if the kernel refuses."""
    with contextlib.suppress(OSError):
        _move_to(group, 0)


def remove(group: Path) -> bool:
    """Removes a group without processes, and those within it; whether it is gone."""
    with contextlib.suppress(OSError):
        for folder in sorted((p for p in group.rglob("*") if p.is_dir()), reverse=True):
            folder.rmdir()
        group.rmdir()
    return not group.exists()


def groups_around(group: Path, root: Path = ROOT) -> Iterator[Path]:
    """The group and those around it, up to the outermost that is to be seen."""
    yield group
    while group not in {root, group.parent}:
        group = group.parent
        yield group


def _prevents(group: Path, root: Path) -> str | None:
    """Why the group must not be divided."""
    try:
        # The root of the machine has no type. A threaded group cannot be divided by memory.
        kind = (group / "cgroup.type").read_text().strip()
    except OSError:
        return "it is the root of all control groups"
    if kind != "domain":
        return f"it is of type {kind!r}"
    if "memory" not in _words(group / "cgroup.controllers"):
        return "it has no memory controller"
    if not (group == root or _is_delegated(group)):
        return "it is not delegated to this process"
    if not os.access(group, os.W_OK):
        return "it cannot be written to"
    return None


def _is_delegated(group: Path) -> bool:
    """Whether whoever manages the groups around this one has left it to this process.

    systemd marks such a group. Others give it to the user of the process, but not its parent.
    """
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            return os.getxattr(group, name) == b"1"
    return group.stat().st_uid == os.geteuid() != group.parent.stat().st_uid


def _move(group: Path) -> Division:
    """Moves this process, and those that started it, to a child group."""
    service = group / SERVICE
    here = {int(word) for word in _words(group / "cgroup.procs")}
    if not here <= set(_family()):
        return Division(None, "other processes share it")
    moved: list[int] = []
    try:
        service.mkdir(exist_ok=True)
        for pid in here:
            _move_to(service, pid)
            moved.append(pid)
        _enable_memory(group)
    except OSError as error:
        with contextlib.suppress(OSError):
            for pid in moved:
                _move_to(group, pid)
            service.rmdir()
        return Division(None, _refused(error))
    return Division(group)


def _family() -> Iterator[int]:
    """The ids of this process and of those that started it."""
    pid = os.getpid()
    while pid > 0:
        yield pid
        try:
            stat = (_PROC / str(pid) / "stat").read_text()
        except OSError:
            return
        pid = int(stat.rpartition(")")[2].split()[1])


def _enable_memory(group: Path) -> None:
    """Makes the groups within count memory and, where that is possible, processes."""
    if "memory" not in _words(group / "cgroup.subtree_control"):
        has_pids = "pids" in _words(group / "cgroup.controllers")
        (group / "cgroup.subtree_control").write_text("+memory +pids" if has_pids else "+memory")


def _move_to(group: Path, pid: int) -> None:
    (group / "cgroup.procs").write_text(f"{pid}\n")


def _refused(error: OSError) -> str:
    return f"the kernel refuses: {error.strerror}"


def _words(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text().split()
    return []
