"""The short chaos runs: jobs train for real while everything is killed and stopped at random.

`make chaos-minute` and `make chaos` run longer ones, with another seed each time.
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
# Seeds whose strikes include each kind that the test asks for.
SHORT = {"seconds": 20, "jobs": 4, "steps": 500, "every": 1.6, "seed": 45}
MINUTE = {"seconds": 60, "jobs": 10, "steps": 600, "every": 2.4, "seed": 4}


@pytest.fixture
def chaos(tmp_path: Path) -> Iterator[Callable[[dict[str, float]], tuple[int, str]]]:
    """Runs it to its end: its exit code and what it said."""
    started: list[psutil.Popen] = []

    def run(options: dict[str, float]) -> tuple[int, str]:
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
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
@pytest.mark.parametrize(
    "options", [SHORT, pytest.param(MINUTE, marks=pytest.mark.thorough)], ids=["20 s", "a minute"]
)
def test_whatever_dies_every_job_ends_once_with_the_curve_of_an_undisturbed_run(
    chaos: Callable[[dict[str, float]], tuple[int, str]], options: dict[str, float]
) -> None:
    code, told = chaos(options)
    assert code == 0, told
    line: dict[str, Any] = json.loads(
        next(line for line in told.splitlines() if line.startswith("{"))
    )
    assert [bar for bar in line["bars"] if not bar["kept"]] == []
    setting = line["setting"]
    struck, attempts = setting["struck"], setting["attempts"]
    assert attempts["completed"] == options["jobs"]
    # It was no idle day: most strikes found something, and jobs paid for it.
    assert sum(struck.values()) >= options["seconds"] / options["every"] / 2, told
    assert {"kill worker", "kill redis", "kill api", "stop worker"} <= struck.keys(), told
    assert sum(attempts.values()) > 1.25 * options["jobs"], told
