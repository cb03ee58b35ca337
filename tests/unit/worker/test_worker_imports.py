"""What a worker process loads."""

from __future__ import annotations

import subprocess
import sys


def test_a_worker_loads_no_torch_and_no_matplotlib() -> None:
    script = (
        "import worker.app, sys; "
        "print([m for m in ('torch', 'matplotlib', 'numpy', 'flask') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
