"""The scripts of the README do what it says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def test_the_script_of_the_readme_resumes_where_sigterm_found_it(
    tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    (script,) = (block for block in blocks if "SPECTRAIN_RUN_DIR" in block)
    program = tmp_path / "train.py"
    program.write_text(script)
    run = tmp_path / "run"
    for directory in ("logs", "checkpoints"):
        (run / directory).mkdir(parents=True)
    metrics = run / "logs" / "metrics.jsonl"
    environment = {**os.environ, "SPECTRAIN_RUN_DIR": str(run), "OMP_NUM_THREADS": "1"}

    process = subprocess.Popen([sys.executable, str(program)], env=environment)
    try:
        wait_until(lambda: metrics.exists() and metrics.stat().st_size > 2000, what="some steps")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    finally:
        process.kill()
    stopped_at = len(metrics.read_text().splitlines())
    assert 0 < stopped_at < 500

    subprocess.run([sys.executable, str(program)], env=environment, check=True, timeout=120)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(0, 5000, 10))
    assert rows[-1]["loss"] < rows[0]["loss"] / 100
    assert not (run / "logs" / "metrics.superseded.jsonl").exists(), "no step was done twice"
