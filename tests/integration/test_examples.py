"""Each example ends like an undisturbed run, though it is preempted and then loses its worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from torch import Tensor
from werkzeug.serving import make_server

from api.cli.main import cli
from api.client.client import Client
from jobs.model.record import Job
from jobs.model.states import Reason, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from tests.integration.http_calls import MakeApp
from tests.integration.worker_processes import Workers

Wait = Callable[..., Any]
EXAMPLES = Path(__file__).parents[2] / "examples"
# More than a busy machine needs to build an environment, and to start a framework three times.
PATIENCE = 200.0
pytestmark = pytest.mark.timeout(480)


@dataclass(frozen=True)
class Example:
    """An example: its first checkpoint, and the file in which it leaves what it has learned.

    `at_once`: its words that make it wait between steps no longer. `may_crash`: now and then its
    framework crashes as it leaves, and the service tries that attempt again.
    """

    name: str
    checkpoint: str
    final: str
    at_once: tuple[str, ...] = ("--pause", "0")
    may_crash: bool = False


# Those that install a framework, or start two processes, take a minute each.
ONES = [
    Example("minimal", "checkpoints/checkpoint_step_20.pt", "model.pt"),
    Example("script_without_spectrain", "work/out/ckpt.pt", "work/out/ckpt.pt", ("--pause=0",)),
    Example("lightning", "work/checkpoints/last.ckpt", "work/model.pt"),
    Example(
        "huggingface",
        "work/results/checkpoint-15/trainer_state.json",
        "work/final/model.safetensors",
    ),
    # Once in about thirteen runs, on a busy machine: a rank under gloo seems to abort.
    Example("ddp", "checkpoints/checkpoint_step_15.pt", "model.pt", may_crash=True),
    Example("sqlite_optuna", "work/study.db", "work/final.json"),
]
USUAL_ONES = {"minimal", "script_without_spectrain"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all tests: environments are made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def client(
    settings: Settings, make_app: MakeApp, workers: Workers, cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Client]:  # fmt: skip
    """A service with two workers."""
    server = make_server("127.0.0.1", 0, make_app(settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.port}"
    monkeypatch.setenv("SPECTRAIN_URL", url)
    for _ in range(2):
        workers.start(SPECTRAIN_CACHE_DIR=str(cache), OMP_NUM_THREADS="1")
    with Client(url) as client:
        yield client
    server.shutdown()
    thread.join()


class Course:
    """A job on the way to its end, for a test that waits for it."""

    def __init__(self, client: Client, store: JobStore, wait: Wait, job_id: str) -> None:
        self._client, self._store, self._wait = client, store, wait
        self._job_id = job_id

    def wait(self, condition: Callable[[Job], Any], what: str) -> Job:
        """The job once it is so."""

        def found() -> Job | None:
            job = self._store.get(self._job_id)
            if condition(job):
                return job
            said = f"{job.state} before {what}: {job.message}"
            assert not job.state.is_final, said + "".join(self._client.logs(job.id))
            return None

        job: Job = self._wait(found, what=what, seconds=PATIENCE)
        return job

    def interrupt(self, checkpoint: str, workers: Workers, *, may_crash: bool = False) -> Job:
        """Preempts the job when a file of it is in storage, and kills the worker that goes on."""

        def is_saved(job: Job) -> bool:
            return makes_steps(job, 1) and any(
                file.path == checkpoint for file in self._client.artifacts(job.id)
            )

        self.wait(is_saved, f"{checkpoint} in storage")
        self._client.preempt(self._job_id)
        job = self.wait(lambda job: makes_steps(job, 2), "a step of attempt 2")
        (worker,) = (one for one in workers.started if f"-{one.pid}-" in job.attempts[-1].worker)
        os.kill(worker.pid, signal.SIGKILL)
        job = self.wait(lambda job: job.state is State.SUCCEEDED, "its end")
        ends = [(attempt.reason, attempt.message) for attempt in job.attempts]
        reasons = [reason for reason, _ in ends if not (may_crash and reason is Reason.ERROR)]
        assert reasons == [Reason.PREEMPTED, Reason.LOST, Reason.COMPLETED], ends
        lost = next(one for one in job.attempts if one.reason is Reason.LOST)
        completed = job.attempts[-1]
        assert completed.worker != lost.worker
        assert lost.restored_files, "attempt 2 began anew"
        assert completed.restored_files, "attempt 3 began anew"
        return job


def makes_steps(job: Job, attempt: int) -> bool:
    return job.attempt == attempt and job.progress is not None and bool(job.progress.step)


def submit(*words: str) -> str:
    """The id of a job that the command line submits, as somebody types it."""
    result = CliRunner().invoke(cli, ["submit", "job.yaml", *words])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def curves(client: Client, job_id: str) -> dict[str, list[tuple[int, Any]]]:
    """Steps and values of each curve, in the order in which they were logged."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for row in client.metrics(job_id):
        for name in row.keys() - {"step", "timestamp"}:
            found.setdefault(name, []).append((row["step"], row[name]))
    return found


def final_lines(client: Client, job_id: str) -> list[str]:
    lines = "".join(client.logs(job_id)).splitlines()
    return [line.partition("] ")[2] for line in lines if "] final " in line]


def learned(client: Client, job_id: str, name: str, directory: Path) -> Any:
    """What a file of the run holds, in a form that can be compared."""
    (path,) = client.fetch(job_id, directory, wanted=lambda path: path == name)
    return plain(torch.load(path)) if path.suffix == ".pt" else path.read_bytes()


def plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(one, id=one.name, marks=() if one.name in USUAL_ONES else pytest.mark.thorough)
        for one in ONES
    ],
)
def test_an_example_ends_as_if_nothing_had_been(
    example: Example, client: Client, store: JobStore, workers: Workers, wait_until: Wait,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(EXAMPLES / example.name)
    command = [str(word) for word in yaml.safe_load(Path("job.yaml").read_text())["command"]]
    job_id, twin_id = submit(), submit("--", *command, *example.at_once)
    twin = Course(client, store, wait_until, twin_id)
    twin.wait(lambda job: job.state is State.SUCCEEDED, "the end of its undisturbed twin")

    course = Course(client, store, wait_until, job_id)
    course.interrupt(example.checkpoint, workers, may_crash=example.may_crash)
    assert len(store.get(twin_id).attempts) == 1
    assert curves(client, job_id) == curves(client, twin_id)
    assert len(curves(client, job_id)["loss"]) >= 30
    # One that crashed after its end says it once more.
    assert dict.fromkeys(final_lines(client, job_id)) == dict.fromkeys(final_lines(client, twin_id))
    ends = [learned(client, one, example.final, tmp_path / one) for one in (job_id, twin_id)]
    assert ends[0] == ends[1]


@pytest.mark.thorough
def test_the_sweep_prints_the_table_of_an_undisturbed_one(
    client: Client, store: JobStore, workers: Workers, wait_until: Wait
) -> None:
    def sweep(name: str, pause: float) -> subprocess.Popen[str]:
        options = ["--sweep", name, "--pause", str(pause), "--lr", "0.01", "0.1"]
        return subprocess.Popen(
            [sys.executable, str(EXAMPLES / "ablation/sweep.py"), *options],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def table(process: subprocess.Popen[str]) -> list[tuple[str, ...]]:
        """Learning rate, state and loss of each row."""
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        assert process.returncode == 0, output
        rows = [line.split() for line in output.partition("val_loss\n")[2].splitlines()]
        return [(lr, state, loss) for lr, _, state, _, loss in rows]

    with sweep("twin", 0) as first:
        undisturbed = table(first)
    assert [row[:2] for row in undisturbed] == [("0.01", "succeeded"), ("0.1", "succeeded")]

    with sweep("lr", 0.25) as second:
        try:
            labels = {"sweep": "lr", "lr": "0.01"}
            (job,) = wait_until(lambda: list(client.list(labels=labels)), what="its first job")
            course = Course(client, store, wait_until, job.id)
            course.interrupt("checkpoints/checkpoint_step_15.pt", workers)
            assert table(second) == undisturbed
        finally:
            second.kill()
    # Each job of one sweep has the curve of the same job of the other one.
    for lr in ("0.01", "0.1"):
        ids = [next(client.list(labels={"sweep": name, "lr": lr})).id for name in ("lr", "twin")]
        assert curves(client, ids[0]) == curves(client, ids[1])
