"""How many processors a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machine import cpus
from machine.cpus import cpu_quota, usable_cpus

V2, V1 = "0::/kubepods/pod1/c1\n", "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        (V2, {"kubepods/pod1/c1/cpu.max": "250000 100000\n"}, 2.5),
        (V2, {"kubepods/pod1/c1/cpu.max": "max 100000\n"}, None),
        (V2, {"kubepods/pod1/c1/cpu.max": "max 100000", "kubepods/cpu.max": "50000 100000"}, 0.5),
        (V2, {"kubepods/pod1/c1/cpu.max": "400000 100000", "kubepods/pod1/cpu.max": "2 1"}, 2.0),
        ("0::/\n", {"cpu.max": "300000 100000"}, 3.0),
        # A container that sees the path of the host, and only its own group.
        (V2, {"cpu.max": "100000 100000"}, 1.0),
        # A worker that has moved to a child group, and the program of its job.
        ("0::/w.service/spectrain\n", {"w.service/cpu.max": "150000 100000",
                                       "w.service/spectrain/cgroup.procs": ""}, 1.5),
        ("0::/w.service/attempt-a.1.7\n", {"w.service/cpu.max": "150000 100000"}, 1.5),
        (V2, {}, None),
        (V2, {"cpu.max": "nonsense"}, None),
        (V1, {"cpu,cpuacct/docker/1/cpu.cfs_quota_us": "150000",
              "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000"}, 1.5),
        (V1, {"cpu,cpuacct/docker/1/cpu.cfs_quota_us": "-1",
              "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000"}, None),
        (V1, {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0),
        # Both versions: the controller is in version 1.
        (V1 + "0::/x\n", {"cpu/docker/1/cpu.cfs_quota_us": "100000", "unified/x/cpu.stat": "",
                          "cpu/docker/1/cpu.cfs_period_us": "50000"}, 2.0),
        ("2:cpuset:/a\n1:cpuacct:/a\n", {"cpu/cpu.cfs_quota_us": "1"}, None),
        ("", {"cpu.max": "1 1"}, None),
    ],
)  # fmt: skip
def test_the_quota_is_the_smallest_around_a_process(
    membership: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path, membership) == quota


@pytest.mark.parametrize(("quota", "usable"), [(None, 4), (2.5, 2), (0.5, 1), (64.0, 4), (4.0, 4)])
def test_a_process_uses_no_more_than_it_may(
    quota: float | None, usable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(cpus, "cpu_quota", lambda: quota)
    assert usable_cpus() == usable
