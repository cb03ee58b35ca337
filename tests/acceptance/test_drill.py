"""`spectrain drill` from outside: what it interrupts, what it says, and that nothing is left."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.client.client import Client
from api.local.service import LocalService

# A few seconds: long enough to be interrupted once, with a checkpoint before.
SPEC = """
name: twin
train:
  model: {type: wave, d_model: 16, num_layers: 1, num_heads: 2, num_waves: 2, num_harmonics: 2,
          block_size: 16, dropout: 0.1}
  optimizer: {name: adamw}
  loss: {name: ce}
  steps: 240
  batch_size: 8
  log_every: 10
  eval_every: 120
  eval_batches: 2
  plot_every: 0
  sample_tokens: 8
checkpoint: {every_steps: 20}
retry: {backoff_seconds: 0}
"""


@dataclass
class Drilled:
    """A drill that has ended."""

    code: int
    line: dict[str, Any]
    told: str


@pytest.fixture
def drill(tmp_path: Path) -> Iterator[Callable[..., Drilled]]:
    """Runs the command to its end, and sees that none of its processes is left."""
    spec = tmp_path / "job.yaml"
    spec.write_text(SPEC)
    family: dict[psutil.Process, None] = {}

    def run(*options: str, url: str | None = None) -> Drilled:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SPECTRAIN_")}
        # A drill in a service of its own takes none of these from the environment.
        environment |= {
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
            "SPECTRAIN_API_TOKENS": "another service's",
            "SPECTRAIN_LEASE_SECONDS": "abc",
            "SPECTRAIN_POOL": "elsewhere",
        }
        environment["TMPDIR"] = str(tmp_path / "temporary")
        (tmp_path / "temporary").mkdir(exist_ok=True)
        if url is not None:
            environment["SPECTRAIN_URL"] = url
        out, told = tmp_path / "out", tmp_path / "told"
        with out.open("wb") as stdout, told.open("wb") as stderr:
            process = psutil.Popen(
                [sys.executable, "-m", "api.cli", "drill", "--json", "--device", "cpu",
                 *(() if "--job" in options else ("--spec", str(spec))), *options],
                stdout=stdout, stderr=stderr, env=environment,
            )  # fmt: skip

        def ended() -> bool:
            with suppress(psutil.Error):
                family.update(dict.fromkeys(process.children(recursive=True)))
            return process.poll() is not None

        deadline = time.monotonic() + 180
        try:
            # Not by `wait_until`: to list a family of processes costs more than the drill does.
            while not ended():
                assert time.monotonic() < deadline, "the drill does not end"
                time.sleep(0.25)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)
        _, alive = psutil.wait_procs(list(family), timeout=10)
        assert not alive, f"left behind: {alive}"
        assert not list((tmp_path / "temporary").glob("spectrain*")), "left on the disk"
        text = out.read_text()
        assert len(text.splitlines()) <= 1
        return Drilled(process.wait(), json.loads(text or "{}"), told.read_text())

    yield run
    for process in family:
        with suppress(psutil.Error):
            process.kill()


def passed(drilled: Drilled, steps: int = 240) -> dict[str, Any]:
    """The line of a drill that showed what it was to show."""
    line = drilled.line
    assert drilled.code == 0, drilled.told
    assert line["passed"] is True
    assert line["interruptions"] == 1
    assert [job["state"] for job in line["jobs"]] == ["succeeded", "succeeded"]
    assert line["curve"]["rows"] >= 20
    assert {"loss", "grad_norm", "val_loss"} <= set(line["curve"]["metrics"])
    assert line["weights"]["step"] == steps - 1
    assert line["weights"]["tensors"] > 20
    return line


def test_a_worker_that_is_told_to_stop_costs_no_step_and_no_bit(
    drill: Callable[..., Drilled],
) -> None:
    drilled = drill("--signal", "TERM", "--target", "worker", "--times", "1", "--seed", "1")
    line = passed(drilled)
    assert "SIGTERM to the worker" in drilled.told
    assert line["jobs"][1]["attempts"] == 2
    assert line["costs"]["steps_recomputed"] == {"p50": 0, "max": 0}
    assert line["costs"]["first_step_seconds"]["max"] > 0


def test_a_killed_training_process_goes_on_from_its_checkpoint_to_the_same_bits(
    drill: Callable[..., Drilled],
) -> None:
    drilled = drill("--signal", "KILL", "--target", "child", "--at", "60")
    line = passed(drilled)
    assert "SIGKILL to the training process" in drilled.told
    assert line["drill"]["moments"] == [60]
    assert line["jobs"][1]["attempts"] == 2
    assert line["costs"]["restore_seconds"]["max"] is not None


def test_a_killed_redis_ends_no_attempt(drill: Callable[..., Drilled], tmp_path: Path) -> None:
    # The drill learns of its steps from Redis, by the second: a fast machine makes 240 in less.
    (tmp_path / "job.yaml").write_text(SPEC.replace("steps: 240", "steps: 1200"))
    drilled = drill("--signal", "KILL", "--target", "redis", "--at", "60")
    line = passed(drilled, steps=1200)
    assert "SIGKILL to the Redis server" in drilled.told
    assert "redis exited with code -9; restarting it" in drilled.told
    assert [job["attempts"] for job in line["jobs"]] == [1, 1]
    assert line["costs"]["outage_seconds"]["max"] > 0


def test_at_a_running_service_it_preempts_and_says_what_it_cannot_do(
    drill: Callable[..., Drilled], tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text(SPEC.replace("steps: 240", "steps: 600"))
    service = LocalService(
        tmp_path / "service", workers=1, device="cpu", isolated=True,
        settings={"SPECTRAIN_LEASE_SECONDS": "2"},
    )  # fmt: skip
    service.start()
    try:
        drilled = drill("--at", "30", url=service.url)
        line = passed(drilled, steps=600)
        assert "preempted through the API" in drilled.told
        assert line["drill"]["lease_seconds"] is None
        with Client(service.url) as client:
            jobs = [client.get(job["id"]) for job in line["jobs"]]
        assert [job.spec.labels["drill"] for job in jobs] == ["untouched", "interrupted"]
        assert [a.reason for a in jobs[1].attempts] == ["preempted", "completed"]
        proofs = [job.proof for job in jobs]
        assert [proof and proof.verdict for proof in proofs] == ["identical"] * 2
        assert [proof and proof.interruptions for proof in proofs] == [1, 1]
        # Once more, of that job, by its abbreviation.
        short = jobs[0].id.rpartition("-")[2]
        again = passed(drill("--at", "30", "--job", short, url=service.url), steps=600)
        with Client(service.url) as client:
            proof = client.get(jobs[0].id).proof
        assert proof is not None
        assert proof.jobs == [job["id"] for job in again["jobs"]]
    finally:
        service.stop()


def test_what_is_out_of_reach_is_said_before_anything_is_submitted(
    drill: Callable[..., Drilled],
) -> None:
    drilled = drill("--signal", "KILL", "--target", "worker", url="http://127.0.0.1:1")
    assert drilled.code == 1
    assert "SIGKILL to the worker cannot be sent to a running service" in drilled.told
    assert drilled.line == {}


def test_the_data_of_a_service_is_left_alone(drill: Callable[..., Drilled], tmp_path: Path) -> None:
    (tmp_path / "mine" / "redis").mkdir(parents=True)
    drilled = drill("--data", str(tmp_path / "mine"))
    assert drilled.code == 1
    assert "holds the data of a service" in drilled.told
