"""The step counter that a supervisor reads from outside."""

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import monitoring
from monitoring import MetricsLogger, step_counter
from monitoring.step_counter import (
    NoCounter,
    StepCounter,
    read_expected,
    read_signs,
    read_steps,
)


def steps(file: Path) -> tuple[int, int, int]:
    """First and last step, and beats."""
    found = read_steps(file)
    assert found is not None
    return found.first, found.last, found.beats


def test_first_and_last_step_and_beats_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    counter = StepCounter(file)
    assert read_steps(file) is None
    for step in (40, 41, 41, 42):
        counter.beat(step)
    assert steps(file) == (40, 42, 3)


def test_the_second_step_is_kept_beside_the_first(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    counter = StepCounter(file)
    seen = []
    for step in (0, 0, 501, 502):
        counter.beat(step)
        found = read_steps(file)
        assert found is not None
        seen.append(found.second)
    assert seen == [None, None, 501, 501]
    StepCounter(file).beat(503)
    found = read_steps(file)
    assert found is not None
    assert found.second == 501, "another counter of the same process goes on"


def test_the_first_and_the_last_beat_have_their_times(tmp_path: Path) -> None:
    before = time.monotonic()
    counter = StepCounter(tmp_path / "steps")
    counter.beat(7)
    between = time.monotonic()
    counter.beat(8)
    found = read_steps(tmp_path / "steps")
    assert found is not None
    assert before <= found.first_at <= between <= found.last_at <= time.monotonic()


def test_the_same_step_from_logger_and_checkpoints_is_one_beat(tmp_path: Path) -> None:
    counter = StepCounter(tmp_path / "steps")
    for step in range(10):
        counter.beat(step)
        counter.beat(step)
    assert steps(tmp_path / "steps") == (0, 9, 10)


def test_a_heartbeat_and_the_same_step_again_are_signs_of_life_and_no_steps(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    counter = StepCounter(file)
    counter.heartbeat()
    assert (read_steps(file), read_signs(file)) == (None, 1)
    for _ in range(3):
        counter.beat(7)
    StepCounter(file).heartbeat()  # another process of the program
    assert (steps(file), read_signs(file)) == ((7, 7, 1), 5)


def test_the_file_of_a_library_without_heartbeats_is_read(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    file.write_bytes(struct.pack("<qqqqqq", 3, 9, 7, 10**9, 2 * 10**9, 4))
    assert (steps(file), read_signs(file)) == ((3, 9, 7), 7)
    StepCounter(file).beat(10)
    assert steps(file) == (3, 10, 8)


def test_a_heartbeat_outside_of_the_service_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_counter, "_counter", None)
    monkeypatch.delenv("SPECTRAIN_STEP_FILE", raising=False)
    monitoring.heartbeat()


def test_no_file_and_a_short_file_mean_no_steps(tmp_path: Path) -> None:
    assert read_steps(tmp_path / "absent") is None
    (tmp_path / "short").write_bytes(b"\x01" * 7)
    assert read_steps(tmp_path / "short") is None


def test_without_a_file_the_counter_does_nothing() -> None:
    NoCounter().beat(3)


def test_a_counter_that_cannot_be_opened_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(step_counter, "_counter", None)
    monkeypatch.setenv("SPECTRAIN_STEP_FILE", str(tmp_path / "absent" / "steps"))
    logger = MetricsLogger(tmp_path, log_interval=2)
    assert [step for step in range(5) if logger.should_log(step)] == [0, 2, 4]
    [warning] = [record.getMessage() for record in caplog.records]
    assert "absent/steps" in warning


@pytest.mark.parametrize("step", [7.0, np.int64(7)])
def test_a_step_may_be_any_whole_number(tmp_path: Path, step: Any) -> None:
    StepCounter(tmp_path / "steps").beat(step)
    assert steps(tmp_path / "steps") == (7, 7, 1)


def test_a_row_counts_as_a_step_also_where_nobody_asks_whether_to_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_counter, "_counter", None)
    monkeypatch.setenv("SPECTRAIN_STEP_FILE", str(tmp_path / "steps"))
    logger = MetricsLogger(tmp_path / "logs")
    for step in (10, 20, 30):
        logger.log_metrics(step, {"loss": 1.0})
    assert steps(tmp_path / "steps") == (10, 30, 3)


def test_a_counter_takes_its_room_on_the_disk_when_it_is_opened(tmp_path: Path) -> None:
    StepCounter(tmp_path / "steps")
    assert (tmp_path / "steps").stat().st_blocks > 0, "a store without room ends the process"


def test_the_steps_survive_sigkill(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    script = (
        "import os, signal\n"
        "from monitoring import MetricsLogger\n"
        "logger = MetricsLogger('unused')\n"
        "for step in range(5, 1005):\n"
        "    logger.should_log(step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "SPECTRAIN_STEP_FILE": str(file)}
    child = subprocess.run(
        [sys.executable, "-c", script], check=False, env=environment, cwd=tmp_path
    )
    assert child.returncode == -signal.SIGKILL
    assert steps(file) == (5, 1004, 1000)


def test_the_number_of_steps_of_the_run_is_known_before_the_first(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    assert read_expected(file) is None
    counter = StepCounter(file)
    assert read_expected(file) is None
    counter.expect(1000)
    assert read_expected(file) == 1000
    assert read_steps(file) is None


@pytest.mark.parametrize("older", [48, 56])
def test_the_file_of_an_older_library_is_read(tmp_path: Path, older: int) -> None:
    file = tmp_path / "steps"
    counter = StepCounter(file)
    counter.expect(9)
    counter.beat(3)
    counter.heartbeat()
    file.write_bytes(file.read_bytes()[:older])
    assert steps(file) == (3, 3, 1)
    assert read_signs(file) == (2 if older == 56 else 1)
    assert read_expected(file) is None
