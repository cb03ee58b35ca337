"""`spectrain demo`, interrupted: who changes their mind has nothing to clean up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from tests.processes import command_line

# What the environment of a person holds who works with another service.
OTHERS = {
    "SPECTRAIN_STORAGE_URL": "s3://others",
    "SPECTRAIN_API_TOKENS": "others-of-sixteen-or-more",
    "SPECTRAIN_API_TOKEN": "another",
    "SPECTRAIN_API_HOST": "0.0.0.0",
    "SPECTRAIN_URL": "http://127.0.0.1:1",
    "SPECTRAIN_POOL": "others",
    "SPECTRAIN_DEVICE": "cuda",
    "SPECTRAIN_LEASE_SECONDS": "abc",
    "SPECTRAIN_REDIS_PREFIX": "others:",
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
}


def test_ctrl_c_in_the_middle_of_the_demo_leaves_no_process_and_no_trace_in_another_service(
    tmp_path: Path, wait_until: Callable[..., Any], redis_url: str
) -> None:
    output = tmp_path / "output"
    environment = {**os.environ, **OTHERS, "REDIS_URL": redis_url, "SPECTRAIN_REDIS_URL": redis_url}
    with output.open("wb") as file:
        demo = psutil.Popen(
            [sys.executable, "-m", "api.cli", "demo", "--data", str(tmp_path / "demo")],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        wait_until(lambda: "Attempt 1 starts" in output.read_text(), what="training", seconds=120)
        family = demo.children(recursive=True)
        names = {Path(part).name for process in family for part in command_line(process)[:1]}
        assert len(family) >= 6, f"Redis, API, worker, guard, training; not {names}"
        demo.send_signal(signal.SIGINT)
        assert demo.wait(90) == 130
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
        assert "Stopped; no process is left running." in output.read_text()
        assert "Traceback" not in output.read_text()
        progress = [line for line in output.read_text().splitlines() if "step 0/" in line]
        assert len(progress) == len(set(progress)), "it says nothing twice"
        with Redis.from_url(redis_url) as redis:
            assert redis.keys() == []
    finally:
        if demo.is_running():
            demo.send_signal(signal.SIGINT)
            demo.wait(90)
