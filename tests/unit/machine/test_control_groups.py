"""Which control groups are divided; trees of files as the kernel shows them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from machine.control_groups import SERVICE, divide, divided_group, groups_around, own_group, remove

UNIT = "system.slice/spectrain-worker@0.service"
OURS = {
    "cgroup.type": "domain\n",
    "cgroup.controllers": "cpu memory pids\n",
    "cgroup.subtree_control": "\n",
    "cgroup.procs": f"{os.getpid()}\n",
}


def tree(root: Path, path: str = "", **files: str) -> Path:
    """A group of version 2 whose processes are this one alone, with changes to its files."""
    group = root / path
    group.mkdir(parents=True, exist_ok=True)
    for name, text in {**OURS, **{k.replace("_", ".", 1): v for k, v in files.items()}}.items():
        (group / name).write_text(text)
    (group / SERVICE).mkdir()
    return group


@pytest.fixture
def delegated(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """The groups that systemd has marked as delegated."""
    marked: set[Path] = set()

    def read(path: Path, name: str) -> bytes:
        if path in marked and name == "user.delegate":
            return b"1"
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))

    monkeypatch.setattr(os, "getxattr", read)
    return marked


def test_a_delegated_group_is_divided(tmp_path: Path, delegated: set[Path]) -> None:
    group = tree(tmp_path, UNIT)
    delegated.add(group)
    assert divide(tmp_path, f"0::/{UNIT}\n").group == group
    assert (group / SERVICE / "cgroup.procs").read_text() == f"{os.getpid()}\n"
    assert (group / "cgroup.subtree_control").read_text() == "+memory +pids"


def test_a_container_divides_the_group_that_it_sees_as_the_root(
    tmp_path: Path, delegated: set[Path]
) -> None:
    group = tree(tmp_path, cgroup_procs=f"{os.getppid()}\n{os.getpid()}\n")
    assert divide(tmp_path, "0::/\n").group == group, "its init is not a foreign process"


@pytest.mark.parametrize(
    ("path", "files", "why"),
    [
        (UNIT, {}, "it is not delegated to this process"),
        ("", {"cgroup_type": "threaded\n"}, "it is of type 'threaded'"),
        ("", {"cgroup_controllers": "cpu pids\n"}, "it has no memory controller"),
        ("", {"cgroup_procs": f"{os.getpid()}\n1\n999999999\n"}, "other processes share it"),
        # Processes of another container, or of the machine, have no id here.
        ("", {"cgroup_procs": f"0\n{os.getpid()}\n"}, "other processes share it"),
    ],
)
def test_a_group_of_others_stays_as_it_is(
    path: str, files: dict[str, str], why: str, tmp_path: Path, delegated: set[Path]
) -> None:
    group = tree(tmp_path, path, **files)
    division = divide(tmp_path, f"0::/{path}\n")
    assert (division.group, division.why) == (None, why)
    assert (group / "cgroup.subtree_control").read_text() == "\n"
    assert not (group / SERVICE / "cgroup.procs").exists()


def test_the_root_of_the_machine_is_not_divided(tmp_path: Path, delegated: set[Path]) -> None:
    (tree(tmp_path) / "cgroup.type").unlink()
    assert divide(tmp_path, "0::/\n").why == "it is the root of all control groups"


@pytest.mark.parametrize(
    "membership",
    ["", "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n", "1:name=systemd:/x\n0::/x\n"],
    ids=["none", "version 1", "both: without controllers in version 2"],
)
def test_without_version_2_nothing_is_divided(
    membership: str, tmp_path: Path, delegated: set[Path]
) -> None:
    (tmp_path / "memory/docker/1").mkdir(parents=True)
    assert divide(tmp_path, membership).why == "there are no control groups of version 2"
    assert divided_group(tmp_path, membership) is None


@pytest.mark.parametrize("refuses", ["cgroup.procs", "cgroup.subtree_control"])
def test_a_group_that_the_kernel_does_not_let_divide_is_left_as_it_was(
    refuses: str, tmp_path: Path, delegated: set[Path]
) -> None:
    """As a mount that is read-only, or a group that others have entered meanwhile."""
    group = tree(tmp_path)
    refusing = (group / SERVICE if refuses == "cgroup.procs" else group) / refuses
    refusing.unlink(missing_ok=True)
    refusing.mkdir()  # writing to it fails
    assert divide(tmp_path, "0::/\n").why.startswith("the kernel refuses")
    assert (group / "cgroup.procs").read_text() == f"{os.getpid()}\n"


def test_a_process_that_another_of_the_service_started_finds_the_divided_group(
    tmp_path: Path, delegated: set[Path]
) -> None:
    group = tree(tmp_path, UNIT, cgroup_subtree_control="memory\n", cgroup_procs="")
    tree(tmp_path, f"{UNIT}/{SERVICE}")
    delegated.add(group)
    within = f"0::/{UNIT}/{SERVICE}\n"
    assert divided_group(tmp_path, within) == group
    assert divide(tmp_path, within).group == group
    assert (group / "cgroup.subtree_control").read_text() == "memory\n"
    assert divided_group(tmp_path, f"0::/{UNIT}\n") is None


def test_groups_around_end_at_the_outermost(tmp_path: Path) -> None:
    inner = tmp_path / "a/b"
    assert list(groups_around(inner, tmp_path)) == [inner, tmp_path / "a", tmp_path]
    assert list(groups_around(tmp_path, tmp_path)) == [tmp_path]
    assert own_group(tmp_path, "0::/gone\n") is None


def test_a_group_is_removed_with_the_groups_within_it(tmp_path: Path) -> None:
    (tmp_path / "attempt/of the program/itself").mkdir(parents=True)
    assert remove(tmp_path / "attempt")
    busy = tmp_path / "busy"
    busy.mkdir()
    (busy / "cgroup.procs").write_text("1\n")
    assert not remove(busy)
