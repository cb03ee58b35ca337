"""The memory that a program may use, and whose lack of it ends it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker.launch import group
from worker.launch.group import OwnGroup, group_of_attempt, remove_left, share_of_job
from worker.losses.memory import limit_around

GIB = 1 << 30


def unit(path: Path, limit: str = f"{4 * GIB}\n") -> Path:
    path.mkdir(exist_ok=True)
    (path / "memory.max").write_text(limit)
    return path


@pytest.mark.parametrize(
    ("limit", "elsewhere", "share"),
    [
        (24.0, 0.1, 23.5),
        (4.0, 0.25, 3.5),
        (4.0, 0.5, 3.375),  # a fork server with large libraries, or files left in /dev/shm
        (0.75, 0.1, 0.375),  # a limit that leaves no room for the reserve
    ],
)
def test_a_program_gets_the_limit_less_a_reserve(
    limit: float, elsewhere: float, share: float
) -> None:
    assert share_of_job(int(limit * GIB), int(elsewhere * GIB)) == share * GIB


def test_the_smallest_limit_around_counts(tmp_path: Path) -> None:
    inner = unit(unit(tmp_path, f"{GIB}\n") / "unit", "max\n")
    assert limit_around(inner) == GIB
    assert limit_around(unit(tmp_path / "small", "4096\n")) == 4096


def test_the_message_says_whose_limit_was_reached(tmp_path: Path) -> None:
    own = OwnGroup(unit(tmp_path), "job.1")
    assert own.path is not None
    assert own.path.name == f"attempt-job.1.{os.getpid()}"
    assert (own.path / "memory.max").read_text() == str(own.limit) == str(int(3.5 * GIB))
    assert (own.path / "memory.oom.group").read_text() == "1"
    assert own.out_of_memory() == ""
    (own.path / "memory.events").write_text("max 9\noom 1\noom_kill 2\n")
    assert "its memory limit, 3.50 of the 4.00 GiB that it shares" in own.out_of_memory()
    (own.path / "memory.events").write_text("max 0\noom 0\noom_kill 1\n")
    assert own.out_of_memory() == (
        "killed by the kernel: the machine or the container is out of memory"
    )


def test_without_a_limit_a_program_has_none(tmp_path: Path) -> None:
    own = OwnGroup(unit(tmp_path, "max\n"), "job.1")
    assert own.limit is None
    assert own.path is not None
    assert not (own.path / "memory.max").exists()


def test_a_program_whose_group_cannot_be_made_shares_that_of_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(group, "divided_group", lambda: tmp_path / "gone")
    with group_of_attempt("job.1") as made:
        assert made.path is None
        assert made.out_of_memory() == ""
    assert "shares the worker's control group" in caplog.text


def test_what_a_dead_worker_left_is_removed_and_what_a_living_one_has_is_not(
    tmp_path: Path,
) -> None:
    dead, living = tmp_path / "attempt-a.1.999999999", tmp_path / "attempt-b.1.1"
    for folder in (dead, living, tmp_path / "spectrain"):
        folder.mkdir()
    remove_left(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [living.name, "spectrain"]


def test_a_program_may_have_so_many_processes(tmp_path: Path) -> None:
    around = unit(tmp_path)
    # As the kernel makes it, in each group within one that counts processes.
    made = around / f"attempt-job.1.{os.getpid()}"
    original = Path.mkdir

    def mkdir(path: Path, *args: int, **options: bool) -> None:
        original(path, *args, **options)
        if path == made:
            (path / "pids.max").write_text("max\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "mkdir", mkdir)
        OwnGroup(around, "job.1", processes=40)
    assert (made / "pids.max").read_text() == "40"
