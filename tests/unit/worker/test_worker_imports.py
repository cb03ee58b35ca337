"""What a worker process loads."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from worker.launch import interpreter

ROOT = Path(__file__).parents[3]


def test_a_worker_loads_no_torch_and_no_matplotlib() -> None:
    script = (
        "import worker.app, sys; "
        "print([m for m in ('torch', 'matplotlib', 'numpy', 'flask') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_a_forked_job_may_have_a_module_with_the_name_of_any_package_of_ours() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    ours = {name.partition(".")[0] for name in settings["tool"]["importlinter"]["root_packages"]}
    assert ours == interpreter.OUR_PACKAGES
