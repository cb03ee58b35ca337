"""Files of the working directory are not executed in place of our modules."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.client.client import Client
from api.local.redis_server import free_port

NAMES = (
    "api", "bench", "jobs", "machine", "monitoring", "spectral_gpt", "worker", "workload",
    "workspaces",
    "celery", "celeryconfig", "click", "flask", "waitress", "httpx", "kombu", "psutil", "pydantic",
    "redis", "torch", "numpy", "matplotlib", "yaml", "rich", "json", "logging", "random", "secrets",
    "socket", "runpy", "typing", "sitecustomize",
)  # fmt: skip
TRAIN = {
    "model": {"d_model": 16, "num_layers": 1, "num_heads": 2, "num_waves": 2, "num_harmonics": 2,
              "block_size": 16},
    "steps": 3, "batch_size": 2, "eval_batches": 1, "sample_tokens": 4,
}  # fmt: skip


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A directory whose every file says that it was executed."""
    directory = tmp_path / "hostile"
    directory.mkdir()
    for name in NAMES:
        (directory / f"{name}.py").write_text(
            f"open({str(tmp_path / 'executed')!r}, 'a').write({name!r} + '\\n')\n"
            f"raise SystemExit('{name}.py was executed')\n"
        )
    return directory


def environment(**settings: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SPECTRAIN_", "REDIS_URL"))}
    return {**kept, **settings}


@pytest.mark.parametrize(
    "command", ["api", "worker", "reaper", "up", "gc", "reindex", "doctor", "demo"]
)
def test_every_command_starts_in_a_directory_with_modules_of_our_names(
    hostile: Path, tmp_path: Path, command: str
) -> None:
    data = tmp_path / "a file"
    data.touch()
    words = ["--data", str(data)] if command == "demo" else []
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "api.cli", command, *words], cwd=hostile,
        env=environment(SPECTRAIN_LEASE_SECONDS="abc"), capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    # Its own code, and that of the process that it becomes, came as far as this.
    expected = "Not a directory" if command == "demo" else "SPECTRAIN_LEASE_SECONDS is 'abc'"
    assert expected in ended.stderr
    assert not (tmp_path / "executed").exists()


def test_a_service_that_is_started_there_runs_jobs(
    hostile: Path, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    port = free_port()
    with (tmp_path / "output").open("wb") as output:
        up = subprocess.Popen(
            [sys.executable, "-P", "-m", "api.cli", "up", "--data", str(tmp_path / "data"),
             "--port", str(port), "--device", "cpu"],
            cwd=hostile, env=environment(), stdout=output, stderr=output,
        )  # fmt: skip
    try:
        said = (tmp_path / "output").read_text
        wait_until(lambda: "is up at" in said() or up.poll() is not None, what="the service")
        assert up.poll() is None, said()
        with Client(f"http://127.0.0.1:{port}") as client:
            jobs = [
                client.submit({"name": "own", "train": TRAIN}),
                client.submit({"name": "any", "command": ["python", "-c", "import json, random"]}),
            ]
            ends = [client.wait(job.id, timeout=120) for job in jobs]
        assert [(job.state, job.message) for job in ends] == [("succeeded", "")] * 2
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(90)
    assert not (tmp_path / "executed").exists(), (tmp_path / "executed").read_text()
