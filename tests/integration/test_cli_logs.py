"""`spectrain logs` on what a real worker has written."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from api.cli.main import cli
from api.client.client import Client
from jobs.model.states import State
from jobs.settings import Settings
from tests.integration.worker_processes import Workers

SCRIPT = """
import os, pathlib, sys, time
attempt = os.environ["SPECTRAIN_ATTEMPT"]
for rank in (0, 1):
    print(f"[rank{rank}]: begins", flush=True)
if attempt == "1":
    sys.exit("RuntimeError: out of luck")
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.1)
print("[rank1]: goes on", flush=True)
"""


@pytest.mark.timeout(120)
def test_lines_of_a_real_log_are_chosen_by_time_attempt_rank_and_text(
    api_url: str, workers: Workers, settings: Settings, tmp_path: Path,
    wait_until: Callable[..., Any],
) -> None:  # fmt: skip
    workers.start()
    signal = tmp_path / "go"
    with Client(api_url) as client:
        job = client.submit({
            "name": "ranks", "command": ["python", "-c", SCRIPT, str(signal)],
            "retry": {"max_failures": 1, "backoff_seconds": 0},
        })  # fmt: skip
        logs = Path(settings.storage_url.removeprefix("file://"), job.id, "logs")

        def noted() -> float:
            """When the worker has noted the log up to the lines of the second attempt."""
            try:
                size, at = (logs / "output.times").read_text().split()[-2:]
                before = (logs / "output.log").read_bytes()[: int(size)]
            except (OSError, ValueError):
                return 0.0
            return float(at) if b"[2] [rank1]: begins" in before else 0.0

        at = wait_until(noted, what="a note of the time")
        wait_until(lambda: time.time() > at + 5, what="some seconds without output")
        signal.touch()
        assert client.wait(job.id, 60).state is State.SUCCEEDED

    def lines(*words: str) -> list[str]:
        done = CliRunner().invoke(cli, ["--url", api_url, "logs", "ranks", *words])
        assert done.exit_code == 0, done.output
        return done.stdout.splitlines()

    since = f"{time.time() - (at + 2.5):.1f}s"
    first, last = lines("--since", since)
    assert first == "[2] [rank1]: goes on"
    assert last.endswith("attempt 2 ended: completed")
    assert lines("--since", "10m") == lines()
    assert lines("--since", since, "--search", "GOES") == [first]
    assert lines("--rank", "1") == ["[1] [rank1]: begins", "[2] [rank1]: begins", first]
    assert lines("--rank", "1", "--since", since) == [first]
    failed = lines("--failed")
    assert failed == lines("--attempt", "1")
    assert "[1] RuntimeError: out of luck" in failed
    assert lines("--search", "runtimeerror", "--tail", "2")[0] == "[1] RuntimeError: out of luck"
    assert lines("--tail", "1") == [last]
