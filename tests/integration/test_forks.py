"""Forks: new jobs that begin from a checkpoint of another, on a volume and in an object store."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.ops import gc
from api.ops.garbage import Garbage
from api.ops.reindex import Reindex
from jobs.model.record import Job, Origin
from jobs.model.states import Reason, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.storage.base import CONTENTS_FOLDER, MOMENTS_FOLDER, Storage
from monitoring.storage.moments import Moments
from monitoring.storage.open import open_storage
from monitoring.storage.run_files import RunFiles
from tests.integration.http_calls import UNKNOWN, MakeApp, problem
from tests.integration.worker_processes import Workers
from worker.attempt.context import ShutdownState, WorkerContext
from worker.attempt.supervisor import supervise
from worker.launch.fork_client import ForkServerClient
from worker.launch.prepare import Slot

TINY: dict[str, Any] = {
    "name": "tiny",
    "train": {
        "model": {"d_model": 16, "num_layers": 1, "num_heads": 2, "block_size": 16},
        "steps": 40,
        "batch_size": 2,
        "log_every": 1,
        "eval_every": 10,
        "eval_batches": 1,
        "plot_every": 0,
        "sample_tokens": 0,
    },
    "checkpoint": {"every_steps": 10, "every_seconds": None, "keep_last": 3},
}
NOT_COMPARED = {"timestamp", "tokens_per_sec"}


class Service:
    """The API, and one worker that is asked to run the next job."""

    def __init__(self, settings: Settings, store: JobStore, http: FlaskClient, start: Any) -> None:
        self.store, self.http = store, http
        self.storage: Storage = open_storage(settings.storage_url)
        messenger = http.application.extensions["spectrain"].messenger
        own = open_storage(settings.storage_url)
        self._context = WorkerContext(
            settings, store, messenger, own, Slot(()), ShutdownState(), start
        )

    def submit(self, spec: dict[str, Any]) -> str:
        answer = self.http.post("/v1/jobs", json=spec)
        assert answer.status_code == 201, answer.text
        return str(answer.get_json()["id"])

    def fork(self, job: str, **body: Any) -> dict[str, Any]:
        answer = self.http.post(f"/v1/jobs/{job}/fork", json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.get_json())

    def run(self) -> Job:
        """The next job, after its attempt."""
        job = self.store.claim("default", "w")
        assert job is not None
        supervise(self._context, job)
        return self.store.get(job.id)

    def reindex(self) -> dict[str, str]:
        """What became of the record of each run."""
        found = Reindex(self.store, self.storage).run(dry_run=False)
        return {one.run: one.what for one in found}

    def rows(self, job: str) -> list[dict[str, Any]]:
        """The rows of a run, without the times at which they were logged."""
        text = self.storage.read(f"{job}/logs/metrics.jsonl")
        found = [json.loads(line) for line in text.splitlines()]
        return [{k: v for k, v in row.items() if k not in NOT_COMPARED} for row in found]

    def document(self, job: str, path: str) -> Any:
        return json.loads(self.storage.read(f"{job}/{path}"))


@pytest.fixture(params=["directory", "s3"])
def service(
    request: pytest.FixtureRequest,
    settings: Settings,
    store: JobStore,
    make_app: MakeApp,
    warm: ForkServerClient,
) -> Service:
    if request.param == "s3":
        url, server = request.getfixturevalue("s3_url"), request.getfixturevalue("s3_server")
        settings = settings.model_copy(update={"storage_url": url, "s3_endpoint_url": server})
    return Service(settings, store, make_app(settings).test_client(), warm.start)


def test_a_fork_goes_on_bit_for_bit_and_differs_only_where_it_is_changed(service: Service) -> None:
    source = service.submit(TINY)
    assert service.run().state is State.SUCCEEDED
    same = service.fork(source, step=20)
    assert same["forked_from"] == {"job": source, "step": 20}
    assert same["checkpoint_step"] == 20
    assert [row["step"] for row in service.rows(same["id"])] == [*range(21)], "its curve is there"
    other = service.fork(source, step=20, set={"train.optimizer.lr": 0.01}, name="fast")
    assert (other["spec"]["train"]["optimizer"]["lr"], other["id"][:5]) == (0.01, "fast-")
    whole = service.rows(source)
    # Both need nothing of their source.
    assert service.http.delete(f"/v1/jobs/{source}?files=true").status_code == 204
    assert not service.storage.list(source)
    for expected in (same["id"], other["id"]):
        job = service.run()
        assert (job.id, job.state) == (expected, State.SUCCEEDED), job.message
        (attempt,) = job.attempts
        assert (attempt.resumed_from, attempt.first_step, attempt.steps_recomputed) == (20, 21, 0)
        assert attempt.forked_from is not None
        assert service.document(job.id, "attempts/1.json")["forked_from"]["job"] == source
        assert service.document(job.id, "config.json")["forked_from"] == {"job": source, "step": 20}
        assert service.document(job.id, "job.json")["forked_from"] == {"job": source, "step": 20}
    assert service.rows(same["id"]) == whole
    changed = service.rows(other["id"])
    assert [row["step"] for row in changed] == [*range(40)]
    assert changed[:21] == whole[:21]
    assert all(a["loss"] != b["loss"] for a, b in zip(changed[22:], whole[22:], strict=True))


def test_the_newest_checkpoint_is_taken_by_default_and_one_that_is_gone_is_refused(
    service: Service,
) -> None:
    source = service.submit(TINY)
    path = f"/v1/jobs/{source}/fork"
    assert "no files yet" in problem(service.http.post(path, json={}), 409)["detail"]
    assert "no checkpoint" in problem(service.http.post(path, json={"step": 3}), 409)["detail"]
    service.run()
    assert service.fork(source, set={"train.steps": 50})["forked_from"]["step"] == 39
    detail = problem(service.http.post(path, json={"step": 5}), 409)["detail"]
    assert detail == f"Job {source} has no checkpoint of step 5; it has those of 20, 30, 39."
    problem(service.http.post(f"/v1/jobs/{UNKNOWN}/fork", json={}), 404)
    # A refused fork leaves nothing behind.
    assert len(service.storage.runs()) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"set": {"train.model.d_model": 32}}, "train.model.d_model"),
        ({"set": {"train.optimizer.name": "adamw"}}, "train.optimizer.name"),
        ({"set": {"train.steps": 40}}, "train.steps"),
        ({"set": {"train.optimiser.lr": 1}}, "train.optimiser"),
        ({"set": {"name.x": 1}}, "name.x"),
        ({"name": "A B"}, "name"),
        ({"step": -1}, "step"),
    ],
)
@pytest.mark.parametrize("service", ["directory"], indirect=True)
def test_what_a_fork_cannot_do_is_refused_by_its_field(
    service: Service, body: dict[str, Any], field: str
) -> None:
    source = service.submit(TINY)
    service.run()
    errors = problem(service.http.post(f"/v1/jobs/{source}/fork", json=body), 422)["errors"]
    assert [error["field"] for error in errors] == [field]
    assert service.storage.runs() == [source]


PLAIN = """
import os, pathlib, sys
state = pathlib.Path("state.bin")
text = state.read_text() if state.exists() else ""
print("resumed", os.environ["SPECTRAIN_RESUMED"], "forked", os.environ.get("SPECTRAIN_FORKED_FROM"))
with open("growing.log", "a") as log:
    log.write(os.environ["SPECTRAIN_JOB_ID"] + "\\n")
state.write_text(text + sys.argv[1])
"""


def test_a_plain_program_begins_with_the_files_of_the_run(service: Service) -> None:
    plain = {"name": "plain", "command": ["python", "-c", PLAIN, "a"]}
    source = service.submit(plain)
    service.run()
    first, second = (service.fork(source, set={"command": [*plain["command"][:3], word]})["id"]
                     for word in "bc")  # fmt: skip
    assert service.run().id == first
    assert service.run().id == second
    for job, text in ((source, "a"), (first, "ab"), (second, "ac")):
        assert service.storage.read(f"{job}/work/state.bin").decode() == text
        ids = service.storage.read(f"{job}/work/growing.log").decode().split()
        assert ids == list(dict.fromkeys((source, job))), "a run has written to another"
    log = service.storage.read(f"{first}/logs/output.log").decode()
    assert 'resumed 1 forked {"job":' in log
    assert service.store.get(first).forked_from is not None


# A user of the library: it saves every tenth step, and stands still where it is told to.
SAVING = """
import os, time, torch
from monitoring import CheckpointManager, MetricsLogger
root, forked = os.environ["SPECTRAIN_RUN_DIR"], "SPECTRAIN_FORKED_FROM" in os.environ
manager, logger = CheckpointManager(root, save_interval=10), MetricsLogger(root + "/logs", 1)
torch.manual_seed(0)
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
checkpoint = manager.load_latest_checkpoint()
if checkpoint:
    model.load_state_dict(checkpoint["model_state_dict"])
start = checkpoint["step"] + 1 if checkpoint else 0
for step in range(start, 45):
    loss = model(torch.full((1, 4), step / 45)).square().mean()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    logger.log_metrics(step, {"loss": loss.item()})
    if manager.should_checkpoint(step):
        manager.save_checkpoint(step, model, optimizer, [], {})
    print("step", step, flush=True)
    while step == int(os.environ["STANDS_AT"]) and os.environ["SPECTRAIN_ATTEMPT"] == "1":
        time.sleep(0.01)
"""


def saving(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "saving.py").write_text(SAVING)
    return {
        "name": "library",
        "command": ["python", str(tmp_path / "saving.py")],
        "env": {"STANDS_AT": "-1"},
        "retry": {"backoff_seconds": 0},
    }


@pytest.mark.parametrize("service", ["directory"], indirect=True)
def test_a_fork_whose_worker_is_killed_before_its_first_checkpoint_begins_there_again(
    service: Service, workers: Workers, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    source = service.submit(saving(tmp_path))
    service.run()
    whole = service.rows(source)
    assert [row["step"] for row in whole] == [*range(45)]
    fork = service.fork(source, step=20, set={"env.STANDS_AT": 25})["id"]
    service.http.delete(f"/v1/jobs/{source}?files=true")
    worker = workers.start()

    def step() -> int | None:
        progress = service.store.get(fork).progress
        return progress.step if progress is not None else None

    wait_until(lambda: step() == 25, what="a step beyond the checkpoint")
    worker.kill()
    workers.start()
    wait_until(lambda: service.store.get(fork).state is State.SUCCEEDED, what="the end of the fork")
    first, second = service.store.get(fork).attempts
    assert (first.reason, first.resumed_from, first.checkpoint_step) == (Reason.LOST, 20, 20)
    assert (second.resumed_from, second.first_step) == (20, 21)
    assert service.rows(fork) == whole


def test_a_running_job_is_forked_and_goes_on(
    service: Service, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    spec = saving(tmp_path)
    source = service.submit(spec | {"env": {"STANDS_AT": "35"}})
    running = threading.Thread(target=service.run)
    running.start()
    wait_until(
        lambda: (at := service.store.get(source).progress) and at.checkpoint_step == 30,
        what="its third checkpoint",
    )
    fork = service.fork(source, set={"env.STANDS_AT": -1})
    assert fork["forked_from"]["step"] == 30
    assert [row["step"] for row in service.rows(fork["id"])] == [*range(31)]
    service.http.post(f"/v1/jobs/{source}/cancel")
    running.join(60)
    assert service.run().state is State.SUCCEEDED
    assert [row["step"] for row in service.rows(fork["id"])] == [*range(45)]
    assert max(row["step"] for row in service.rows(source)) == 35, "its curve is its own"


@pytest.mark.parametrize("service", ["directory"], indirect=True)
def test_a_checkpoint_is_linked_and_what_grows_is_not(service: Service) -> None:
    source = service.submit(TINY)
    service.run()
    fork = service.fork(source, step=20)["id"]
    root = Path(str(service.storage.local_path(fork))).parent
    name = "checkpoints/checkpoint_step_20.pt"
    assert (root / fork / name).samefile(root / source / name)
    assert (root / fork / "checkpoints/checkpoint_latest.pt").readlink() == Path(Path(name).name)
    curve = "logs/metrics.jsonl"
    assert not (root / fork / curve).samefile(root / source / curve)
    assert sorted(file.key for file in service.storage.list(fork)) == [
        f"{fork}/checkpoints/checkpoint_step_20.pt",
        f"{fork}/checkpoints/checkpoint_step_20.pt.json",
        f"{fork}/logs/metrics.jsonl",
    ], "what tells of its source alone"


def test_a_run_from_before_moments_is_forked_as_any_other(service: Service) -> None:
    source = service.submit(TINY)
    service.run()
    lay_out_as_before_moments(service.storage, source)
    whole = service.rows(source)
    longer = service.fork(source, set={"train.steps": 50})
    forks = [service.fork(source, step=20)["id"], longer["id"]]
    assert [service.store.get(fork).forked_from for fork in forks] == [
        Origin(job=source, step=20), Origin(job=source, step=39),
    ]  # fmt: skip
    assert service.http.delete(f"/v1/jobs/{source}?files=true").status_code == 204
    for _ in forks:
        job = service.run()
        assert job.state is State.SUCCEEDED, job.message
    assert service.rows(forks[0]) == whole
    assert [row["step"] for row in service.rows(forks[1])] == [*range(50)]


def test_a_plain_run_from_before_moments_begins_with_its_files(service: Service) -> None:
    command = ["bash", "-c", "cd $SPECTRAIN_RUN_DIR; echo x >> state; ln -sfn state now"]
    source = service.submit({"name": "plain", "command": command})
    service.run()
    lay_out_as_before_moments(service.storage, source)
    fork = service.fork(source)["id"]
    assert service.run().state is State.SUCCEEDED
    for run, lines in ((source, b"x\n"), (fork, b"x\nx\n")):
        found = RunFiles(service.storage, run)
        assert service.storage.read(found.key("state")) == lines
        assert found.links()["now"] == "state"


def lay_out_as_before_moments(storage: Storage, run: str) -> None:
    """Leaves each file of a run at its path, and nothing that says what belongs together."""
    found = RunFiles(storage, run)
    for path, file in found.all().items():
        if file.key != f"{run}/{path}":
            storage.keep(file.key, f"{run}/{path}")
    for path, target in found.links().items():
        storage.point(f"{run}/{path}", target)
    for folder in (MOMENTS_FOLDER, CONTENTS_FOLDER):
        storage.delete_all([file.key for file in storage.list(f"{run}/{folder}")])
    assert Moments(storage, run).newest() is None


def test_the_lineage_outlives_a_lost_redis(service: Service) -> None:
    source = service.submit(TINY)
    service.run()
    fork = service.fork(source, step=20)["id"]
    before = service.store.get(fork)
    service.store.redis.flushall()
    found = {
        one.run: one.what for one in Reindex(service.store, service.storage).run(dry_run=False)
    }
    assert fork in found
    after = service.store.get(fork)
    assert (after.forked_from, after.state) == (before.forked_from, State.QUEUED)
    assert after.spec == before.spec
    # A run of which there is no copy of the record, as one of an earlier version.
    assert service.run().forked_from == before.forked_from
    service.store.redis.flushall()
    service.storage.delete(f"{fork}/.record.json")
    service.reindex()
    assert service.store.get(fork).forked_from == before.forked_from


@pytest.mark.parametrize("service", ["directory"], indirect=True)
def test_what_a_crash_leaves_of_a_fork_is_garbage(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = service.submit(TINY)
    service.run()

    def dies(*_: object, **__: object) -> None:
        raise RuntimeError("the process dies here")

    with monkeypatch.context() as patch:
        patch.setattr(service.http.application.extensions["spectrain"].store, "submit", dies)
        problem(service.http.post(f"/v1/jobs/{source}/fork", json={"step": 20}), 500)
    (left,) = set(service.storage.runs()) - {source}
    assert service.reindex()[left] == "deleted"
    assert left not in {job.id for job in service.store.newest()}
    found = [one for one in gc.find(service.store, service.storage, time.time() + 60)
             if one.run == left]  # fmt: skip
    assert [(type(one), one.why) for one in found] == [(Garbage, "its job was deleted")]


def test_the_same_key_forks_once(service: Service) -> None:
    source = service.submit(TINY)
    service.run()
    path, key = f"/v1/jobs/{source}/fork", {"Idempotency-Key": "once"}
    body = {"step": 20}
    ids = {service.http.post(path, json=body, headers=key).get_json()["id"] for _ in range(2)}
    assert len(ids) == 1
    problem(service.http.post(path, json={"step": 30}, headers=key), 422)
    assert set(service.storage.runs()) == {source, *ids}
