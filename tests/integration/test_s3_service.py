"""The service with its runs in an object store."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from flask.testing import FlaskClient

from api.server.app import create_app
from jobs.messages import Messenger
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.storage.base import Storage
from monitoring.storage.open import open_storage
from worker.attempt.context import ShutdownState, WorkerContext
from worker.attempt.supervisor import supervise
from worker.launch.prepare import Slot


@pytest.fixture
def s3_settings(settings: Settings, s3_url: str, s3_server: str) -> Settings:
    return settings.model_copy(update={"storage_url": s3_url, "s3_endpoint_url": s3_server})


@pytest.fixture
def storage(s3_settings: Settings) -> Storage:
    return open_storage(s3_settings.storage_url)


# -- the API ----------------------------------------------------------------------------------


@pytest.fixture
def http(s3_settings: Settings) -> Iterator[FlaskClient]:
    app = create_app(s3_settings)
    yield app.test_client()
    app.extensions["spectrain"].messenger.close()


@pytest.fixture
def job_id(http: FlaskClient, storage: Storage) -> str:
    """A job whose run has a log, metrics, a result and a link to it."""
    job_id = str(http.post("/v1/jobs", json={"name": "a", "command": ["true"]}).get_json()["id"])
    storage.append(f"{job_id}/logs/output.log", 0, "one\ntwo ∿\n".encode())
    rows = [json.dumps({"step": step, "loss": step / 3}) + "\n" for step in range(3)]
    storage.append(f"{job_id}/logs/metrics.jsonl", 0, "".join(rows).encode())
    storage.append(f"{job_id}/results.json", 0, b'{"loss": 1.0}')
    storage.point(f"{job_id}/latest", "results.json")
    return job_id


def test_logs_and_metrics_are_read_from_the_store(http: FlaskClient, job_id: str) -> None:
    log = http.get(f"/v1/jobs/{job_id}/logs?offset=4")
    assert log.text == "two ∿\n"
    assert http.get(f"/v1/jobs/{job_id}/logs?offset=12").text == ""
    page = http.get(f"/v1/jobs/{job_id}/metrics?after_step=0").get_json()
    assert page["rows"] == [{"step": 1, "loss": 1 / 3}, {"step": 2, "loss": 2 / 3}]
    assert http.get("/readyz").status_code == 200


@pytest.mark.parametrize("path", ["results.json", "latest"])
def test_a_file_is_fetched_from_the_store_by_a_redirect(
    http: FlaskClient, job_id: str, path: str
) -> None:
    answer = http.get(f"/v1/jobs/{job_id}/artifacts/{path}")
    assert answer.status_code == 302
    assert answer.headers["Cache-Control"] == "no-store"
    assert httpx.get(answer.headers["Location"]).content == b'{"loss": 1.0}'
    listed = http.get(f"/v1/jobs/{job_id}/artifacts").get_json()["artifacts"]
    assert [file["path"] for file in listed] == [
        "logs/metrics.jsonl", "logs/output.log", "results.json",
    ]  # fmt: skip


def test_a_script_of_a_page_reads_a_file_without_a_redirect(http: FlaskClient, job_id: str) -> None:
    answer = http.get(f"/v1/jobs/{job_id}/artifacts/results.json?redirect=false")
    assert (answer.status_code, answer.data) == (200, b'{"loss": 1.0}')


def test_a_browser_saves_a_file_of_the_store_under_its_name(
    http: FlaskClient, storage: Storage, job_id: str
) -> None:
    storage.append(f"{job_id}/out/evil é.html", 0, b"<script>alert(1)</script>")
    for path, query, saved in (
        ("results.json", "", False), ("results.json", "?download=true", True),
        ("out/evil é.html", "", True),
    ):  # fmt: skip
        answer = http.get(f"/v1/jobs/{job_id}/artifacts/{path}{query}")
        found = httpx.get(answer.headers["Location"]).headers.get("Content-Disposition", "")
        assert found.startswith("attachment; filename*=UTF-8''") == saved, path
    assert "evil%20%C3%A9.html" in found


@pytest.fixture
def sent(s3_settings: Settings) -> Iterator[FlaskClient]:
    """The API where clients do not reach the store."""
    app = create_app(s3_settings.model_copy(update={"s3_redirect": False}))
    yield app.test_client()
    app.extensions["spectrain"].messenger.close()


def test_where_clients_do_not_reach_the_store_the_api_sends_files_itself(
    sent: FlaskClient, storage: Storage, job_id: str
) -> None:
    whole = bytes(range(256)) * (5 << 12)  # more than one block
    storage.append(f"{job_id}/checkpoints/big.pt", 0, whole)
    path = f"/v1/jobs/{job_id}/artifacts/checkpoints/big.pt"
    answer = sent.get(path)
    assert (answer.status_code, answer.content_length) == (200, len(whole))
    assert answer.data == whole
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    again = sent.get(path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    for given, start, end in (("4194300-4194309", 4194300, 4194310), ("-7", -7, None)):
        part = sent.get(path, headers={"Range": f"bytes={given}"})
        assert (part.status_code, part.data) == (206, whole[start:end])
        assert part.headers["Content-Range"].endswith(f"/{len(whole)}")
    assert sent.get(path, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416
    assert sent.get(f"/v1/jobs/{job_id}/artifacts/latest").data == b'{"loss": 1.0}'
    assert sent.get(f"/v1/jobs/{job_id}/artifacts/none").status_code == 404


@pytest.mark.parametrize(
    "path", ["none", ".fence", ".record.json", "logs", "../x", "logs//output.log"]
)
def test_what_is_no_file_of_the_run_is_not_found(
    http: FlaskClient, storage: Storage, job_id: str, path: str
) -> None:
    storage.append(f"{job_id}/.fence", 0, b"1")
    storage.append(f"{job_id}/.record.json", 0, b"{}")
    assert http.get(f"/v1/jobs/{job_id}/artifacts/{path}").status_code == 404


def test_a_bucket_that_is_gone_is_503_and_says_so(s3_settings: Settings) -> None:
    app = create_app(s3_settings.model_copy(update={"storage_url": "s3://nowhere"}))
    answer = app.test_client().get("/readyz")
    assert answer.status_code == 503
    assert "there is no bucket 'nowhere'" in answer.get_json()["detail"]


# -- a worker ---------------------------------------------------------------------------------

COUNTS = """
import os, time
from pathlib import Path
from monitoring import preemption
run = Path(os.environ["SPECTRAIN_RUN_DIR"])
assert not [name for name in os.environ if name.startswith("AWS_")]
count = run / "count.txt"
start = int(count.read_text()) if count.exists() else 0
print("from", start, flush=True)
for step in range(start, 5):
    count.write_text(str(step + 1))
    with (run / "logs" / "metrics.jsonl").open("a") as file:
        file.write('{"step": %d}\\n' % step)
    print("step", step, flush=True)
    while step == 1 and start == 0 and not preemption.stop_requested():
        time.sleep(0.01)
    if preemption.stop_requested():
        raise SystemExit(143)
"""


def test_a_preempted_job_goes_on_with_its_files_from_the_store(
    s3_settings: Settings, store: JobStore, storage: Storage, wait_until: Callable[..., Any]
) -> None:
    messenger = Messenger(s3_settings, store)
    spec = {"name": "a", "command": ["python", "-c", COUNTS], "retry": {"backoff_seconds": 0}}
    job = store.submit(JobSpec.model_validate(spec))
    log = f"{job.id}/logs/output.log"

    def worker() -> tuple[ShutdownState, threading.Thread]:
        claimed = store.claim("default", "w")
        assert claimed is not None
        shutdown_state = ShutdownState()
        own = open_storage(s3_settings.storage_url)
        service = WorkerContext(s3_settings, store, messenger, own, Slot(()), shutdown_state)
        thread = threading.Thread(target=supervise, args=(service, claimed))
        thread.start()
        return shutdown_state, thread

    shutdown_state, thread = worker()
    wait_until(
        lambda: storage.stat(log) is not None and b"step 1" in storage.read(log),
        what="two steps in the store",
    )
    shutdown_state.stop()
    thread.join(30)
    job = store.get(job.id)
    assert (job.state, job.reason) == (State.QUEUED, Reason.PREEMPTED)

    _, thread = worker()
    thread.join(30)
    messenger.close()
    assert store.get(job.id).state is State.SUCCEEDED
    assert storage.read(f"{job.id}/count.txt") == b"5"
    rows = storage.read(f"{job.id}/logs/metrics.jsonl").splitlines()
    assert [json.loads(row)["step"] for row in rows] == [0, 1, 2, 3, 4]
    lines = [line for line in storage.read(log).decode().splitlines() if "---" not in line]
    assert lines == [
        "[1] from 0", "[1] step 0", "[1] step 1",
        "[2] from 2", "[2] step 2", "[2] step 3", "[2] step 4",
    ]  # fmt: skip
    assert [file.key for file in storage.list(f"{job.id}/attempts")] == [
        f"{job.id}/attempts/1.json", f"{job.id}/attempts/2.json",
    ]  # fmt: skip
