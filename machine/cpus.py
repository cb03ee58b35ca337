"""How many processors this process may use: those it may run on, and its control group's quota.

Numerical libraries count processors and not quotas. In a container with 4 of 64 processors they
start 64 threads, which the kernel stops together for most of each period.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """How many threads can run at the same time, at least one."""
    there = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return there if quota is None else max(1, min(there, int(quota)))


def cpu_quota(root: Path = _ROOT, membership: str | None = None) -> float | None:
    """The processors that the control groups of this process allow, such as 2.5; None for any.

    `membership`: the content of `/proc/self/cgroup`, of version 1, 2 or both.
    """
    if membership is None:
        try:
            membership = _MEMBERSHIP.read_text()
        except OSError:
            return None
    found: list[float] = []
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            for folder in _folders(path, root, root / "unified"):
                found.extend(_of_version_2(folder))
        elif "cpu" in controllers.split(","):
            for folder in _folders(path, root / controllers, root / "cpu"):
                found.extend(_of_version_1(folder))
    return min(found, default=None)


def _folders(path: str, *mounts: Path) -> Iterator[Path]:
    """The folders of a group and of those around it; a container may see only the outermost."""
    group = PurePosixPath(path.lstrip("/"))
    for mount in mounts:
        for one in (group, *group.parents):
            yield mount / one


def _of_version_2(folder: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        if quota != "max":
            yield int(quota) / int(period)


def _of_version_1(folder: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        if quota > 0 and period > 0:
            yield quota / period
