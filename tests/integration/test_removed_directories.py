"""Directories that somebody removes or moves away while a job runs, or before a worker starts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from api.local.service import LocalService
from jobs.messages import Messenger
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from tests.integration.http_calls import MakeApp
from tests.integration.one_worker import Bench, python
from tests.integration.worker_processes import Workers

Wait = Callable[..., Any]
WAITS = (
    "import os, time; print('up', flush=True)\nwhile not os.path.exists({go!r}): time.sleep(0.02)\n"
)


def test_a_run_removed_from_storage_ends_its_attempt_once_and_the_job_goes_on(
    workers: Workers,
    store: JobStore,
    messenger: Messenger,
    settings: Settings,
    tmp_path: Path,
    wait_until: Wait,
) -> None:
    command = ["python", "-c", WAITS.format(go=str(tmp_path / "go"))]
    job = store.submit(JobSpec(name="a", command=command))
    workers.start(SPECTRAIN_LEASE_SECONDS="3")
    messenger.flush(store.now())
    run = Path(settings.storage_url.removeprefix("file://")) / job.id
    wait_until((run / "logs/output.log").exists, what="its start")
    shutil.rmtree(run)
    (tmp_path / "go").touch()
    wait_until(lambda: store.get(job.id).state is State.SUCCEEDED, what="its end")
    first, second = store.get(job.id).attempts
    assert (first.reason, second.reason) == (Reason.STORAGE, Reason.COMPLETED)
    assert "was removed" in first.message
    assert workers.log().count("attempt 1 starts") == 1
    assert "was overtaken" not in workers.log()


def test_a_run_directory_that_its_program_removes_is_no_outage(bench: Bench) -> None:
    script = (
        "import os, shutil; print('up', flush=True)\n"
        "shutil.rmtree(os.environ['SPECTRAIN_RUN_DIR'])\n"
    )
    job = bench.run(python(script))
    assert job.state is State.SUCCEEDED, job
    assert "not saved: what changed before its run directory was removed" in bench.output(job)
    assert job.run_seconds < 30


def test_api_and_new_workers_recover_when_storage_comes_back(
    workers: Workers,
    make_app: MakeApp,
    settings: Settings,
    registry: WorkerRegistry,
    wait_until: Wait,
) -> None:
    storage = Path(settings.storage_url.removeprefix("file://"))
    storage.mkdir(exist_ok=True)
    http = make_app(settings).test_client()
    assert http.get("/readyz").status_code == 200
    storage.rename(storage.with_name("moved"))
    storage.write_text("not a directory")
    workers.start()
    wait_until(
        lambda: [w.reason for w in registry.workers() if "storage" in w.reason or w.reason],
        what="an unhealthy worker",
    )
    wait_until(lambda: http.get("/readyz").status_code == 503, what="not ready")
    storage.unlink()
    storage.with_name("moved").rename(storage)
    wait_until(lambda: http.get("/readyz").status_code == 200, what="ready again")

    def is_healthy() -> bool:
        http.get("/readyz")  # as a platform goes on to ask
        return bool(registry.workers()) and all(not w.reason for w in registry.workers())

    wait_until(is_healthy, what="a healthy worker")
    # An empty directory in its place: that of a worker which found it in order is not there.
    storage.rename(storage.with_name("moved"))
    workers.start()
    wait_until(
        lambda: any("different volumes" in worker.reason for worker in registry.workers()),
        what="a worker that sees another directory than the first",
    )
    wait_until(lambda: is_healthy() and len(registry.workers()) == 2, what="both workers healthy")
    assert http.get("/readyz").status_code == 200


def test_up_says_what_it_waits_for_and_starts_when_it_is_there(tmp_path: Path) -> None:
    storage = tmp_path / "data/experiments"
    storage.parent.mkdir()
    storage.write_text("no directory")
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if storage.is_file():
            storage.unlink()

    service = LocalService(
        tmp_path / "data", device="cpu", workers=1, say=say, isolated=True,
        settings={"SPECTRAIN_WARM_START": "0"},
    )  # fmt: skip
    try:
        service.start()
        assert said[0].startswith("Waiting: storage: ")
        assert service.workers
    finally:
        service.stop()
