"""The integrations cost nobody anything who does not ask for one.

What they do is tried with the frameworks by `make gauntlet`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
INTEGRATIONS = sorted((ROOT / "monitoring/integrations").glob("*.py"))


def test_importing_the_library_imports_no_framework() -> None:
    script = """
import sys, monitoring
for name in monitoring.__all__:
    getattr(monitoring, name)
unwanted = {"accelerate", "lightning", "transformers", "monitoring.integrations"}
print(sorted(unwanted & set(sys.modules)))
"""
    answer = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("path", INTEGRATIONS, ids=lambda path: path.name)
def test_an_integration_fits_on_two_screens(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 100


def test_processes_that_are_asked_one_after_the_other_stop_at_the_same_step(
    tmp_path: Path,
) -> None:
    script = f"""
import os, signal, sys, time
from torch import distributed
from monitoring.integrations.run_log import RunLog, leave, stop_requested
rank = int(sys.argv[1])
distributed.init_process_group("gloo", "file://{tmp_path}/meet", rank=rank, world_size=2)
stop_requested()
for step in range(1000):
    if rank == 1 and step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    if rank == 0:
        RunLog("{tmp_path}/logs").log(step, {{"loss": 0.5, "text": "x", "step": 9}})
    if stop_requested():
        print(step, flush=True)
        distributed.barrier()
        leave()
"""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for rank in (0, 1)
    ]
    answers = [rank.communicate(timeout=120)[0].strip() for rank in ranks]
    assert answers == ["3", "3"]
    assert [rank.returncode for rank in ranks] == [143, 143]
    rows = [json.loads(line) for line in (tmp_path / "logs/metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(step, 0.5) for step in range(4)]
