"""The main job through the real command line: what happens to it, and that nothing shows it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.client.client import Client
from api.local.redis_server import free_port
from api.schemas import JobView
from jobs.model.states import Reason, State
from tests.processes import command_line

pytestmark = pytest.mark.timeout(400)

LEASE_SECONDS = 3
# What a test asks for reaches the training up to two seconds after the step that it waited for:
# the progress is told once a second, and so are requests. Hence far from the end.
STEPS = 800
TRAIN = {
    "model": {
        "type": "wave", "d_model": 16, "num_layers": 1, "num_heads": 2, "num_waves": 2,
        "num_harmonics": 2, "block_size": 16, "dropout": 0.1,
    },
    # Half the time of a step with the defaults, which the chaos run trains with.
    "optimizer": {"name": "adamw"},
    "loss": {"name": "ce"},
    "steps": STEPS,
    "batch_size": 8,
    "log_every": 20,
    "eval_every": 300,
    "eval_batches": 2,
    "plot_every": 0,
    "sample_tokens": 8,
}  # fmt: skip
SPEC = {
    "name": "twin",
    "train": TRAIN,
    "checkpoint": {"every_steps": 200, "every_seconds": None},
    # One thread, so that tests beside it cannot make it wait for cores.
    "env": {"OMP_NUM_THREADS": "1"},
}


class Up:
    """`spectrain up` as a process, seen from outside."""

    def __init__(self, data: Path, wait_until: Callable[..., Any]) -> None:
        self.data = data
        self._wait_until = wait_until
        self._port = free_port()
        self.client = Client(f"http://127.0.0.1:{self._port}")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "api.cli", "up", "--device", "cpu", "--data"]
        environment = {
            **{k: v for k, v in os.environ.items() if k != "REDIS_URL"},
            "SPECTRAIN_LEASE_SECONDS": str(LEASE_SECONDS),
        }
        self.output = self.data.with_suffix(".out")
        with self.output.open("ab") as file:
            self.process = psutil.Popen(
                [*command, str(self.data), "--port", str(self._port)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self._wait_until(
            lambda: "is up at" in self.output.read_text() or self.process.poll() is not None,
            what="spectrain up",
        )
        assert self.process.poll() is None, self.output.read_text()

    def stop(self) -> None:
        """Ctrl-C; afterwards no process is left."""
        family = self.process.children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(90) == 0, self.output.read_text()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive, f"left behind: {alive}"
        self.output.unlink()

    def find(self, *words: str) -> psutil.Process | None:
        """The newest process of the service whose command line holds these words."""
        found = [
            process
            for process in self.process.children(recursive=True)
            if set(words) <= set(command_line(process))
        ]
        return max(found, key=lambda p: p.create_time(), default=None)

    def worker(self) -> psutil.Process | None:
        return self.find("-m", "worker")

    def training(self) -> psutil.Process | None:
        """The training process itself, not its guard."""
        guard = self.find("worker.launch.guard")
        return guard.children()[0] if guard is not None and guard.children() else None

    def reaches(self, job: JobView, step: int) -> JobView:
        """The job, once its training has done this step."""

        def there() -> JobView | None:
            now = self.client.get(job.id)
            assert not now.state.is_final, f"{now.state} before step {step}: {now.message}"
            done = now.progress.step if now.progress else None
            return now if done is not None and done >= step else None

        return self._wait_until(there, what=f"step {step}", seconds=120)

    def leaves(self, job: JobView) -> State | None:
        """The job's state, once it does not run any more."""
        state = self.client.get(job.id).state
        return None if state in (State.QUEUED, State.RUNNING) else state

    def ends(self, job: JobView) -> JobView:
        return self.client.wait(job.id, timeout=180)

    def losses(self, job: JobView) -> list[tuple[int, str]]:
        """Step and loss of every row of metrics.jsonl, the loss as it is written."""
        path = self.data / "experiments" / job.id / "logs" / "metrics.jsonl"
        rows = [json.loads(line, parse_float=str) for line in path.read_text().splitlines()]
        return [(row["step"], row["loss"]) for row in rows]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., Any]) -> Iterator[Up]:
    service = Up(tmp_path_factory.mktemp("up") / "my data", wait_until)
    try:
        yield service
    finally:
        service.client.close()
        if service.process.poll() is None:
            service.stop()


@pytest.fixture(scope="module")
def untouched(up: Up) -> list[tuple[int, str]]:
    """The curve of a run that nobody interrupted."""
    job = up.ends(up.client.submit(SPEC))
    assert job.state is State.SUCCEEDED, job.message
    assert len(job.attempts) == 1
    curve = up.losses(job)
    assert [step for step, _ in curve] == sorted({*range(0, STEPS, 20), STEPS - 1})
    assert float(curve[-1][1]) < float(curve[0][1])
    return curve


def test_a_drained_worker_loses_no_step_and_no_digit(
    up: Up, untouched: list[tuple[int, str]]
) -> None:
    job = up.client.submit(SPEC)
    up.reaches(job, 300)
    worker = up.worker()
    assert worker is not None
    worker.send_signal(signal.SIGTERM)
    worker.wait(60)
    job = up.ends(job)
    assert job.state is State.SUCCEEDED, job.message
    first, second = job.attempts
    assert (first.reason, second.reason) == (Reason.PREEMPTED, Reason.COMPLETED)
    assert first.worker != second.worker
    assert second.resumed_from == first.last_step == first.checkpoint_step
    assert second.steps_recomputed == 0
    assert (second.first_step, second.last_step) == ((first.last_step or 0) + 1, STEPS - 1)
    assert up.losses(job) == untouched


def test_a_killed_training_process_and_then_a_killed_worker_leave_the_same_curve(
    up: Up, untouched: list[tuple[int, str]], wait_until: Callable[..., Any]
) -> None:
    job = up.client.submit({**SPEC, "retry": {"backoff_seconds": 0}})
    up.reaches(job, 220)
    training = up.training()
    assert training is not None
    training.kill()
    wait_until(lambda: up.client.get(job.id).attempt == 2, what="the second attempt")

    up.reaches(job, 420)
    worker, training = up.worker(), up.training()
    assert worker is not None
    assert training is not None
    worker.kill()
    assert not psutil.wait_procs([training], timeout=10)[1], "it outlived its worker"
    job = up.ends(job)

    assert job.state is State.SUCCEEDED, job.message
    assert [a.reason for a in job.attempts] == [Reason.ERROR, Reason.LOST, Reason.COMPLETED]
    assert "SIGKILL" in job.attempts[0].message
    for earlier, later in zip(job.attempts, job.attempts[1:], strict=False):
        assert later.resumed_from is not None, "it began again in place of resuming"
        assert later.resumed_from % 200 == 0
        assert earlier.checkpoint_step is not None
        # A killed worker may have published one more checkpoint than it could tell of.
        assert later.resumed_from >= earlier.checkpoint_step
    assert up.losses(job) == untouched

    log = (up.data / "experiments" / job.id / "logs" / "output.log").read_text()
    assert {line.split(" ", 1)[0] for line in log.splitlines()} == {"[1]", "[2]", "[3]"}
    receipts = sorted((up.data / "experiments" / job.id / "attempts").glob("[0-9]*.json"))
    assert [json.loads(path.read_text())["reason"] for path in receipts] == [
        "error", "lost", "completed",
    ]  # fmt: skip


def test_a_preempted_job_goes_on_by_itself_and_a_paused_one_when_told(
    up: Up, untouched: list[tuple[int, str]], wait_until: Callable[..., Any]
) -> None:
    job = up.client.submit(SPEC)
    up.reaches(job, 20)
    up.client.preempt(job.id)
    wait_until(lambda: up.client.get(job.id).attempt == 2, what="the second attempt")
    up.reaches(job, 220)
    up.client.pause(job.id)
    state = wait_until(lambda: up.leaves(job), what="the pause")
    assert state is State.PAUSED
    up.client.resume(job.id)
    job = up.ends(job)
    assert [a.reason for a in job.attempts] == [
        Reason.PREEMPTED, Reason.PAUSED, Reason.COMPLETED,
    ]  # fmt: skip
    assert up.losses(job) == untouched


def test_stopping_the_service_loses_nothing_and_leaves_no_process(
    up: Up, untouched: list[tuple[int, str]]
) -> None:
    job = up.client.submit(SPEC)
    waiting = up.client.submit({"name": "after", "command": ["true"]})
    up.reaches(job, 300)
    up.stop()
    up.start()
    job, waiting = up.ends(job), up.ends(waiting)
    assert [a.reason for a in job.attempts] == [Reason.PREEMPTED, Reason.COMPLETED]
    assert up.losses(job) == untouched
    assert waiting.state is State.SUCCEEDED


def test_a_cancelled_job_ends_at_once_and_says_so(up: Up) -> None:
    job = up.client.submit(SPEC)
    up.reaches(job, 20)
    up.client.cancel(job.id)
    up.client.cancel(job.id)
    job = up.ends(job)
    assert (job.state, job.reason) == (State.CANCELLED, Reason.CANCELLED)


def test_nothing_is_left_on_the_workers_disk(up: Up, wait_until: Callable[..., Any]) -> None:
    def left() -> list[str]:
        return [
            name
            for _, _, names in os.walk(up.data / "scratch")
            for name in names
            if name.endswith(".pt")
        ]

    wait_until(lambda: not left(), what="an empty scratch disk")
