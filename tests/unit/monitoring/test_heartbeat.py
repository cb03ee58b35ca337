"""The step counter that a supervisor reads from outside."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from monitoring.heartbeat import NoCounter, StepCounter, Steps, read_steps


def test_first_and_last_step_and_beats_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    counter = StepCounter(file)
    assert read_steps(file) is None
    for step in (40, 41, 41, 42):
        counter.beat(step)
    assert read_steps(file) == Steps(first=40, last=42, beats=3)


def test_the_same_step_from_logger_and_checkpoints_is_one_beat(tmp_path: Path) -> None:
    counter = StepCounter(tmp_path / "steps")
    for step in range(10):
        counter.beat(step)
        counter.beat(step)
    assert read_steps(tmp_path / "steps") == Steps(0, 9, 10)


def test_no_file_and_a_short_file_mean_no_steps(tmp_path: Path) -> None:
    assert read_steps(tmp_path / "absent") is None
    (tmp_path / "short").write_bytes(b"\x01" * 7)
    assert read_steps(tmp_path / "short") is None


def test_without_a_file_the_counter_does_nothing() -> None:
    NoCounter().beat(3)


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
    assert read_steps(file) == Steps(first=5, last=1004, beats=1000)
