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

import pytest
import yaml

from api.local.service import LocalService

ROOT = Path(__file__).parents[2]


# In place of the steps in the README: a run of a moment.
QUICK = "{steps: 3, batch_size: 2, eval_batches: 1, sample_tokens: 0}"
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_script_of_the_readme_resumes_where_sigterm_found_it(
    tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    (script,) = (block for block in blocks("python") if "SPECTRAIN_RUN_DIR" in block)
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


@pytest.mark.timeout(300)
def test_the_commands_and_the_client_of_the_readme_run_a_job_to_its_end(tmp_path: Path) -> None:
    (session,) = (block for block in blocks("sh") if "spectrain submit job.yaml" in block)
    (job,) = (block for block in blocks("yaml") if block.startswith("# job.yaml"))
    (client,) = (block for block in blocks("python") if "client.submit" in block)
    (tmp_path / "job.yaml").write_text(
        job.replace("  steps: 500", "\n".join(f"  {one}" for one in QUICK[1:-1].split(", ")))
    )
    commands = [line.partition("#")[0].split()[1:] for line in session.splitlines()]
    # What needs a job that is still running, or a service of its own, has tests of its own.
    commands = [words for words in commands if words[0] not in {"preempt", "drill"}]
    assert [words[0] for words in commands] == [
        "submit", "ls", "show", "watch", "plot", "fetch", "fork",
    ]  # fmt: skip

    service = LocalService(
        tmp_path / "service", workers=1, device="cpu", isolated=True, say=lambda _: None,
        settings={"SPECTRAIN_API_TOKENS": ""},
    )  # fmt: skip
    service.start()
    try:
        environment = {**os.environ, "SPECTRAIN_URL": service.url, "OMP_NUM_THREADS": "1"}

        def run(*words: str) -> str:
            done = subprocess.run(
                [sys.executable, *words], cwd=tmp_path, env=environment,
                check=False, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stdout

        output = {words[0]: run("-m", "api.cli", *words) for words in commands}
        assert "succeeded" in output["show"]
        assert "succeeded" in output["watch"]
        assert "━ loss" in output["plot"]
        assert (tmp_path / "results" / "results.json").exists()
        assert output["fork"].startswith("longer-")

        script = client.replace('{"steps": 2000}', str(yaml.safe_load(QUICK)))
        assert "eval_batches" in script
        run("-c", script)
        assert (tmp_path / "wave" / "logs" / "metrics.jsonl").read_text()
    finally:
        service.stop()
