"""The short chaos run: jobs train for real while everything is killed and stopped at random.

`make chaos` runs the long one, with a seed of its own each time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
OPTIONS = {"seconds": 60, "jobs": 10, "steps": 600, "every": 2.4, "seed": 4}


@pytest.fixture
def chaos(tmp_path: Path) -> Iterator[Callable[[], tuple[int, str]]]:
    """Runs it to its end: its exit code and what it said."""
    started: list[psutil.Popen] = []

    def run() -> tuple[int, str]:
        words = [word for name, value in OPTIONS.items() for word in (f"--{name}", str(value))]
        output = tmp_path / "output"
        with output.open("wb") as file:
            process = psutil.Popen(
                [sys.executable, "-m", "bench", "chaos", "--data", str(tmp_path / "run"), *words],
                cwd=ROOT, env=os.environ, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        started.append(process)
        return process.wait(), output.read_text()

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()  # it ends whatever it has started
            process.wait(60)


@pytest.mark.timeout(900)
def test_whatever_dies_every_job_ends_once_with_the_curve_of_its_undisturbed_twin(
    chaos: Callable[[], tuple[int, str]],
) -> None:
    code, told = chaos()
    assert code == 0, told
    line: dict[str, Any] = json.loads(
        next(line for line in told.splitlines() if line.startswith("{"))
    )
    assert [bar for bar in line["bars"] if not bar["kept"]] == []
    setting = line["setting"]
    struck, attempts = setting["struck"], setting["attempts"]
    assert attempts["completed"] == OPTIONS["jobs"]
    # It was no idle day: most strikes found something, and jobs paid for it.
    assert sum(struck.values()) >= 12, told
    assert {"kill worker", "kill redis", "kill api", "stop worker"} <= struck.keys(), told
    assert sum(attempts.values()) > 1.25 * OPTIONS["jobs"], told
