"""The example notebook, executed from its first cell to its last by a kernel of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from api.client.client import Client
from jobs.model.states import State
from tests.integration.worker_processes import Workers

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = "two_learning_rates.ipynb"


def source() -> dict[str, Any]:
    return dict(json.loads((EXAMPLES / "notebook" / NOTEBOOK).read_text()))


def outputs(cells: list[dict[str, Any]]) -> str:
    """What the cells of code have answered, as text."""
    texts = []
    for cell in cells:
        for output in cell.get("outputs", []):
            texts += output.get("text", []) + output.get("data", {}).get("text/plain", [])
    return "\n".join(texts)


def test_the_notebook_is_committed_without_outputs() -> None:
    assert source()["cells"]
    assert not outputs(source()["cells"])


@pytest.mark.timeout(400)
def test_the_notebook_runs(api_url: str, workers: Workers, tmp_path: Path) -> None:
    for name in ("notebook", "ablation"):
        shutil.copytree(EXAMPLES / name, tmp_path / name)
    workers.start(OMP_NUM_THREADS="1")
    home = {f"{name}_DIR": str(tmp_path / "home") for name in ("JUPYTER_CONFIG", "JUPYTER_DATA",
                                                               "JUPYTER_RUNTIME")}  # fmt: skip
    environment = {
        **os.environ, **home, "IPYTHONDIR": str(tmp_path / "home"), "SPECTRAIN_URL": api_url,
        "PYTHONPATH": str(EXAMPLES.parent), "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }  # fmt: skip
    execute = Path(sys.executable).with_name("jupyter-execute")  # of nbclient
    command = [execute, "--inplace", "--timeout=300", NOTEBOOK]
    done = subprocess.run(
        command, cwd=tmp_path / "notebook", env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    executed = json.loads((tmp_path / "notebook" / NOTEBOOK).read_text())
    cells = [cell for cell in executed["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    assert "image/png" in str(executed), "the curves are drawn"
    assert "'0.01', '0.1'" in outputs(cells), "what differs is said"
    with Client(api_url) as client:
        jobs = list(client.list())
    assert [job.state for job in jobs] == [State.SUCCEEDED] * 2
    fetched = tmp_path / "notebook/fetched/logs/metrics.jsonl"
    assert len(fetched.read_text().splitlines()) == 60
