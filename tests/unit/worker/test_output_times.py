"""How long the output log was at which time: noted by a worker, and read by the service."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from api.server.runs.log_times import offset_since
from monitoring.paths import RunPaths
from monitoring.storage.base import Fence
from monitoring.storage.directory import FileStorage
from worker.files.logs import output_times
from worker.files.logs.output_times import OutputTimes
from worker.files.logs.row_file import RowFile
from worker.files.pace import Pace


def times(base: Path, attempt: int = 1) -> OutputTimes:
    here = base / f"scratch-{attempt}"
    here.mkdir(exist_ok=True)
    (base / "store").mkdir(exist_ok=True)
    storage, paths = FileStorage(base / "store"), RunPaths(Path())
    pace = Pace(appends_in_place=True)
    return OutputTimes(
        RowFile(storage, here / "times", paths.output_times, Fence("job", attempt), pace)
    )


def stored(base: Path) -> list[int]:
    """The sizes that storage has, whose times are those of now."""
    rows = RunPaths(base / "store/job").output_times.read_text().splitlines()
    assert all(abs(float(row.split()[1]) - time.time()) < 600 for row in rows)
    return [int(row.split()[0]) for row in rows]


def test_a_size_is_noted_when_output_came_but_not_each_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = times(tmp_path)
    noted.publish(None, closing=False)
    noted.publish(100, closing=False)
    noted.publish(200, closing=False)
    assert stored(tmp_path) == [100], "ten seconds have not passed"
    monkeypatch.setattr(output_times, "_NOTE_SECONDS", 0.0)
    noted.publish(200, closing=False)
    noted.publish(200, closing=False)
    assert stored(tmp_path) == [100, 200]
    monkeypatch.setattr(output_times, "_NOTE_SECONDS", 3600.0)
    noted.publish(300, closing=True)
    assert stored(tmp_path) == [100, 200, 300]
    assert noted.published_bytes == RunPaths(tmp_path / "store/job").output_times.stat().st_size


def test_the_next_attempt_adds_to_the_rows_of_the_first(tmp_path: Path) -> None:
    for attempt, size in ((1, 100), (2, 250)):
        noted = times(tmp_path, attempt)
        noted.publish(None, closing=False)
        noted.publish(size, closing=True)
    assert stored(tmp_path) == [100, 250]


@pytest.mark.parametrize(
    ("moment", "offset"), [(0, 0), (9.9, 0), (10, 100), (25, 200), (30, 300), (1e9, 300)]
)
def test_what_came_after_a_time_begins_where_the_log_ended_then(moment: float, offset: int) -> None:
    assert offset_since(b"100 10\n200 20.5\n300 30\n", moment) == offset


def test_a_log_that_was_begun_anew_is_read_from_its_beginning() -> None:
    rows = b"100 10\n9000 20\n50 30\n80 40\n"
    assert offset_since(rows, 25) == 0
    assert offset_since(rows, 35) == 50
    assert offset_since(rows, 45) == 80


def test_rows_that_are_none_say_nothing() -> None:
    assert offset_since(b"x\n\n7\n100 10\nnan nan\n\xff 3\n", 20) == 100
