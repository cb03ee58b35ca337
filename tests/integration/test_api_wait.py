"""Why a job waits and for how long, and what a dry run says."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from jobs.forecast import forecast
from jobs.model.record import Job, Progress
from jobs.model.states import Reason, Request
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from tests.integration.http_calls import GOOD, MakeApp, problem, submitted

HALF = Progress(
    first_step=0, step=9, step_seconds=18.0, first_step_seconds=1.0, total_steps=100,
    seconds_left=180.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request sees the pool as it is, not as it was a moment ago."""
    monkeypatch.setattr(forecast, "_GOOD_SECONDS", 0.0)


@pytest.fixture
def registry(store: JobStore) -> WorkerRegistry:
    return WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60)


@pytest.fixture
def http(settings: Settings, make_app: MakeApp) -> FlaskClient:
    changed = settings.model_copy(update={"eviction_min_seconds": 0.0})
    return make_app(changed).test_client()


def wait_of(http: FlaskClient, job_id: str) -> dict[str, Any]:
    found = http.get(f"/v1/jobs/{job_id}").get_json()["wait"]
    assert isinstance(found, dict)
    return found


def plan(http: FlaskClient, **changes: Any) -> dict[str, Any]:
    answer = http.post("/v1/jobs/plan", json=GOOD | changes)
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def runs(http: FlaskClient, store: JobStore, worker: str, progress: Progress | None = HALF) -> Job:
    """The job that a worker has claimed, and how far it is."""
    job = store.claim("default", worker)
    assert job is not None
    store.renew(job.id, job.attempt, progress)
    return job


def test_a_job_without_a_worker_says_so(http: FlaskClient, store: JobStore) -> None:
    job = submitted(http)
    assert job["wait"] == {"reason": "pool 'default' has no worker", "seconds": None}
    planned = plan(http)
    assert (planned["position"], planned["workers"], planned["seconds"]) == (1, 0, None)


def test_a_worker_that_takes_no_jobs_is_named(http: FlaskClient, registry: WorkerRegistry) -> None:
    registry.renew("w", pool="default", host="h")
    registry.drain("w")
    job = submitted(http)
    assert job["wait"]["reason"] == "no worker of pool 'default' takes jobs: draining"


def test_a_job_too_large_for_the_workers_says_what_they_have(
    http: FlaskClient, registry: WorkerRegistry
) -> None:
    registry.renew("w", pool="default", host="h", gpus=["L4"])
    wait = submitted(http, resources={"gpus": 4})["wait"]
    assert "needs 4 GPUs" in wait["reason"]
    assert "has 1" in wait["reason"]
    assert wait["seconds"] is None


def test_the_wait_follows_from_the_step_rates_of_running_and_waiting_jobs(
    http: FlaskClient, store: JobStore, registry: WorkerRegistry
) -> None:
    registry.renew("w", pool="default", host="h")
    submitted(http)
    runs(http, store, "w")
    first, second = submitted(http), submitted(http)
    found = wait_of(http, first["id"])
    assert found["reason"] == "it is next, and the worker is busy in pool 'default'"
    assert found["seconds"] == pytest.approx(180, abs=2)
    found = wait_of(http, second["id"])
    assert found["reason"] == "1 job is ahead of it"
    # The job before it starts, and makes 100 steps of 2 s.
    assert found["seconds"] == pytest.approx(180 + 1 + 200, abs=3)
    pool = http.get("/v1/pools/default").get_json()
    assert pool["wait_seconds"] == pytest.approx(180 + 2 * 201, abs=4)
    assert http.get("/v1/pools").get_json()["pools"] == [pool | {"wait_seconds": pytest.approx(
        pool["wait_seconds"], abs=1)}]  # fmt: skip
    urgent = plan(http, priority=6)
    assert (urgent["position"], urgent["seconds"]) == (0, 0.0), "it would evict"
    assert plan(http)["position"] == 2


def test_nothing_is_guessed_of_a_job_that_says_nothing(
    http: FlaskClient, store: JobStore, registry: WorkerRegistry
) -> None:
    registry.renew("w", pool="default", host="h")
    submitted(http)
    runs(http, store, "w", None)
    assert submitted(http)["wait"]["seconds"] is None
    assert http.get("/v1/pools/default").get_json()["wait_seconds"] is None


def test_a_job_in_its_backoff_waits_for_its_end(
    http: FlaskClient, store: JobStore, registry: WorkerRegistry
) -> None:
    registry.renew("w", pool="default", host="h")
    job = submitted(http, retry={"backoff_seconds": 500})
    claimed = store.claim("default", "w")
    assert claimed is not None
    assert claimed.current is not None
    ended = claimed.current.model_copy(update={"reason": Reason.ERROR, "ended_at": store.now()})
    store.finish(job["id"], ended)
    found = wait_of(http, job["id"])
    assert "backoff" in found["reason"]
    assert 490 < found["seconds"] < 700


def test_a_job_that_does_not_wait_has_no_reason_to(http: FlaskClient, store: JobStore) -> None:
    job = submitted(http)
    assert http.post(f"/v1/jobs/{job['id']}/cancel").get_json()["wait"] is None


def test_a_plan_names_the_jobs_that_the_reaper_would_evict_and_changes_nothing(
    http: FlaskClient, store: JobStore, registry: WorkerRegistry
) -> None:
    registry.renew("w", pool="default", host="h")
    registry.renew("v", pool="default", host="h")
    low = submitted(http, priority=2)
    runs(http, store, "w")
    submitted(http, priority=4)
    runs(http, store, "v")
    assert plan(http, priority=2)["evicts"] == []
    found = plan(http, priority=8)
    assert (found["position"], found["evicts"], found["workers"]) == (0, [low["id"]], 2)
    assert low["id"] in found["reason"]
    assert store.get(low["id"]).request is None
    assert len(list(store.newest())) == 2
    store.request(low["id"], Request.PREEMPT)
    assert plan(http, priority=8)["evicts"] == [], "a slot is about to be free"


def test_a_plan_of_a_wrong_specification_is_refused_like_the_job(http: FlaskClient) -> None:
    errors = problem(http.post("/v1/jobs/plan", json={"name": "a"}), 422)["errors"]
    assert errors == problem(http.post("/v1/jobs", json={"name": "a"}), 422)["errors"]
