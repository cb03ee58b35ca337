"""The HTTP calls on jobs and workers, with a real Redis and files in a real directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from jobs.model.record import Attempt
from jobs.model.states import Reason
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from tests.integration.http_calls import GOOD, UNKNOWN, MakeApp, problem, run_to, submitted

# -- submit -----------------------------------------------------------------------------------


def test_a_submitted_job_is_queued_where_location_says(http: FlaskClient) -> None:
    answer = http.post("/v1/jobs", json=GOOD)
    assert answer.status_code == 201
    job = http.get(answer.headers["Location"]).get_json()
    assert job["id"] == answer.get_json()["id"]
    assert (job["state"], job["queue_position"]) == ("queued", 0)
    assert job["files"].endswith(f"/experiments/{job['id']}")


def test_a_submitted_job_wakes_a_worker(http: FlaskClient, store: JobStore, job_id: str) -> None:
    assert store.redis.llen(store.keys.queue("default")) == 1
    assert store.redis.zcard(store.keys.outbox) == 0


def test_a_job_whose_message_cannot_be_sent_is_accepted_all_the_same(
    settings: Settings, store: JobStore, monkeypatch: pytest.MonkeyPatch, make_app: MakeApp
) -> None:
    app = make_app(settings)
    messenger = app.extensions["spectrain"].messenger

    def fail(*_: object) -> None:
        raise ConnectionError("the broker is away")

    monkeypatch.setattr(messenger, "announce", fail)
    submitted(app.test_client())
    assert store.redis.zcard(store.keys.outbox) == 1


def test_the_same_idempotency_key_answers_with_the_same_job(http: FlaskClient) -> None:
    headers = {"Idempotency-Key": "k"}
    first = http.post("/v1/jobs", json=GOOD, headers=headers).get_json()
    again = http.post("/v1/jobs", json=GOOD, headers=headers).get_json()
    assert first["id"] == again["id"]
    other = http.post("/v1/jobs", json=GOOD | {"priority": 1}, headers=headers)
    assert first["id"] in problem(other, 422)["detail"]
    assert len(http.get("/v1/jobs").get_json()["jobs"]) == 1


def test_the_key_of_a_job_that_was_deleted_makes_no_new_one(
    http: FlaskClient, store: JobStore
) -> None:
    headers = {"Idempotency-Key": "k"}
    job = http.post("/v1/jobs", json=GOOD, headers=headers).get_json()
    http.post(f"/v1/jobs/{job['id']}/cancel")
    http.delete(f"/v1/jobs/{job['id']}")
    assert "deleted" in problem(http.post("/v1/jobs", json=GOOD, headers=headers), 409)["detail"]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_a_strange_idempotency_key_is_refused(http: FlaskClient, key: str) -> None:
    answer = http.post("/v1/jobs", json=GOOD, headers={"Idempotency-Key": key})
    assert problem(answer, 422)["errors"][0]["field"] == "Idempotency-Key"


# -- list -------------------------------------------------------------------------------------


def test_pages_neither_shift_nor_repeat_while_jobs_come_and_go(http: FlaskClient) -> None:
    ids = [submitted(http)["id"] for _ in range(5)]
    first = http.get("/v1/jobs?limit=2").get_json()
    submitted(http)
    http.post(f"/v1/jobs/{ids[3]}/cancel")
    http.delete(f"/v1/jobs/{ids[3]}")
    second = http.get(f"/v1/jobs?limit=2&cursor={first['cursor']}").get_json()
    third = http.get(f"/v1/jobs?limit=2&cursor={second['cursor']}").get_json()
    pages = [[job["id"] for job in page["jobs"]] for page in (first, second, third)]
    assert pages == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]
    assert third["cursor"] is None


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["c", "b", "a"]),
        ("?label=team:waves", ["b", "a"]),
        ("?label=team:waves&label=kind:x", ["b"]),
        ("?label=team:waves&label=team:x", []),
        ("?label=note:a:b", ["c"]),
        ("?pool=big", ["c"]),
        ("?name=a", ["a"]),
        ("?state=queued", ["c", "b"]),
        ("?state=cancelled&label=team:waves", ["a"]),
    ],
)
def test_a_list_holds_what_was_asked_for_newest_first(
    http: FlaskClient, query: str, names: list[str]
) -> None:
    first = submitted(http, name="a", labels={"team": "waves"})
    submitted(http, name="b", labels={"team": "waves", "kind": "x"})
    submitted(http, name="c", labels={"note": "a:b"}, resources={"pool": "big"})
    http.post(f"/v1/jobs/{first['id']}/cancel")
    jobs = http.get(f"/v1/jobs{query}").get_json()["jobs"]
    assert [job["spec"]["name"] for job in jobs] == names


# -- ask --------------------------------------------------------------------------------------


def test_a_running_job_is_asked_to_stop(http: FlaskClient, store: JobStore, job_id: str) -> None:
    store.claim("default", "w1")
    for action in ("preempt", "pause", "cancel"):
        answer = http.post(f"/v1/jobs/{job_id}/{action}")
        assert (answer.status_code, answer.get_json()["request"]) == (202, action)


def test_a_paused_job_is_queued_again_and_announced(
    http: FlaskClient, store: JobStore, job_id: str
) -> None:
    store.claim("default", "w1")
    http.post(f"/v1/jobs/{job_id}/pause")
    job = store.get(job_id)
    store.finish(
        job_id,
        Attempt(number=1, worker="w1", started_at=1.0, ended_at=2.0, reason=Reason.PAUSED),
    )
    assert job.request == "pause"
    answer = http.post(f"/v1/jobs/{job_id}/resume")
    assert (answer.status_code, answer.get_json()["state"]) == (202, "queued")
    assert store.redis.llen(store.keys.queue("default")) == 2


def test_a_pause_under_way_is_taken_back_and_a_cancel_under_way_is_not(
    http: FlaskClient, store: JobStore, job_id: str
) -> None:
    store.claim("default", "w1")
    http.post(f"/v1/jobs/{job_id}/pause")
    answer = http.post(f"/v1/jobs/{job_id}/resume")
    assert (answer.status_code, answer.get_json()["state"]) == (202, "running")
    assert answer.get_json()["request"] is None
    http.post(f"/v1/jobs/{job_id}/cancel")
    for action in ("resume", "pause", "preempt", "retry"):
        body = problem(http.post(f"/v1/jobs/{job_id}/{action}"), 409)
        assert body["state"] == "running, asked to cancel"


def test_a_failed_job_is_tried_again_and_announced(
    http: FlaskClient, store: JobStore, job_id: str
) -> None:
    run_to(store, Reason.DIVERGED)
    answer = http.post(f"/v1/jobs/{job_id}/retry")
    job = answer.get_json()
    assert (answer.status_code, job["state"], job["finished_at"]) == (202, "queued", None)
    assert store.redis.llen(store.keys.queue("default")) == 2
    again = store.claim("default", "w1")
    assert again is not None
    assert (again.id, again.attempt) == (job_id, 2)


def test_a_waiting_job_is_moved_up_and_a_label_and_a_limit_are_changed(
    http: FlaskClient, store: JobStore, job_id: str
) -> None:
    other = submitted(http, labels={"team": "waves", "note": "x"}, limits={"run_seconds": 60})
    answer = http.patch(
        f"/v1/jobs/{other['id']}",
        json={
            "priority": 7,
            "labels": {"note": None, "who": "me"},
            "limits": {"run_seconds": None},
        },
    )
    job = answer.get_json()
    assert (answer.status_code, job["priority"], job["queue_position"]) == (200, 7, 0)
    assert job["spec"]["labels"] == {"team": "waves", "who": "me"}
    assert job["spec"]["limits"]["run_seconds"] is None
    assert job["spec"]["limits"]["stall_seconds"] == 1800
    first = store.claim("default", "w1")
    assert first is not None
    assert first.id == other["id"]


def test_what_cannot_be_changed_is_refused(http: FlaskClient, store: JobStore, job_id: str) -> None:
    path = f"/v1/jobs/{job_id}"
    body = problem(http.patch(path, json={"name": "b", "priority": 10}), 422)
    assert {error["field"] for error in body["errors"]} == {"name", "priority"}
    run_to(store, Reason.COMPLETED)
    assert problem(http.patch(path, json={"priority": 1}), 409)["state"] == "succeeded"
    problem(http.patch("/v1/jobs/a-23456789", json={"priority": 1}), 404)


def test_a_job_that_is_being_deleted_is_not_tried_again(
    http: FlaskClient, store: JobStore, job_id: str
) -> None:
    run_to(store, Reason.DIVERGED)
    store.mark_deleted(job_id)
    assert problem(http.post(f"/v1/jobs/{job_id}/retry"), 409)["state"] == "being deleted"


@pytest.mark.parametrize("action", ["preempt", "pause", "resume", "retry"])
def test_what_a_state_forbids_is_refused_with_the_state(
    http: FlaskClient, job_id: str, action: str
) -> None:
    body = problem(http.post(f"/v1/jobs/{job_id}/{action}"), 409)
    assert body["state"] == "queued"
    assert job_id in body["detail"]


def test_only_a_job_in_a_final_state_is_deleted(
    http: FlaskClient, store: JobStore, job_id: str, run: Path
) -> None:
    assert problem(http.delete(f"/v1/jobs/{job_id}?files=true"), 409)["state"] == "queued"
    assert run.exists()
    run_to(store, Reason.COMPLETED)
    assert http.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert run.exists()
    problem(http.get(f"/v1/jobs/{job_id}"), 404)


def test_the_files_go_with_the_job_when_asked(
    http: FlaskClient, store: JobStore, job_id: str, run: Path
) -> None:
    run_to(store, Reason.DIVERGED)
    assert http.delete(f"/v1/jobs/{job_id}?files=true").status_code == 204
    assert not run.exists()


# -- workers ----------------------------------------------------------------------------------


def test_workers_and_pools_are_listed_with_what_they_do(
    http: FlaskClient, store: JobStore, job_id: str
) -> None:
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60)
    registry.renew("w1", pool="default", host="h", gpus=["NVIDIA L4"])
    registry.renew("w2", pool="default", host="h", unhealthy="GPU 0 is lost")
    store.claim("default", "w1")
    submitted(http)
    first, second = http.get("/v1/workers").get_json()["workers"]
    assert (first["state"], first["job"], first["gpus"]) == ("busy", job_id, ["NVIDIA L4"])
    assert (second["state"], second["reason"]) == ("unhealthy", "GPU 0 is lost")
    (pool,) = http.get("/v1/pools").get_json()["pools"]
    assert (pool["queued"], pool["running"], pool["wanted"]) == (1, 1, 2)
    assert pool["workers"] == {"idle": 0, "busy": 1, "draining": 0, "unhealthy": 1}
    assert http.get("/v1/pools/default").get_json() == pool


def test_a_pool_that_nobody_has_heard_of_wants_no_worker(http: FlaskClient) -> None:
    answer = http.get("/v1/pools/gpu")
    assert answer.status_code == 200
    assert (answer.get_json()["name"], answer.get_json()["wanted"]) == ("gpu", 0)
    assert http.get("/v1/pools").get_json()["pools"] == [], "and asking does not make it one"


def test_a_worker_is_drained_and_undrained_by_its_name(http: FlaskClient, store: JobStore) -> None:
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60)
    registry.renew("gpu-1.lan-77-ab", pool="default", host="h")
    answer = http.post("/v1/workers/gpu-1.lan-77-ab/drain")
    assert (answer.status_code, answer.get_json()["state"]) == (202, "draining")
    assert answer.get_json()["reason"] == "it was drained"
    answer = http.post("/v1/workers/gpu-1.lan-77-ab/undrain")
    assert (answer.status_code, answer.get_json()["state"]) == (202, "idle")
    assert "'gpu-2'" in problem(http.post("/v1/workers/gpu-2/drain"), 404)["detail"]


# -- who may call -----------------------------------------------------------------------------

ONE, TWO = "one-of-sixteen-or-more", "two-of-sixteen-or-more"


@pytest.fixture
def guarded(settings: Settings, make_app: MakeApp) -> FlaskClient:
    return make_app(settings.model_copy(update={"api_tokens": f"{ONE}, {TWO}"})).test_client()


@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer three", f"Basic {ONE}", f"Bearer {ONE}{TWO}"]
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/openapi.json", "/nowhere"])
def test_nobody_calls_without_a_token(guarded: FlaskClient, header: str | None, path: str) -> None:
    answer = guarded.get(path, headers={"Authorization": header} if header else {})
    problem(answer, 401)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("header", [f"Bearer {ONE}", f"bearer {TWO}"])
def test_every_token_of_the_settings_opens(guarded: FlaskClient, header: str) -> None:
    assert guarded.get("/v1/jobs", headers={"Authorization": header}).status_code == 200


def test_probes_need_no_token(guarded: FlaskClient) -> None:
    assert guarded.get("/healthz").status_code == 200
    assert guarded.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "["},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://evil.example//127.0.0.1:8080", "Host": "127.0.0.1:8080"},
    ],
)
def test_without_tokens_no_web_page_of_somebody_else_calls(
    http: FlaskClient, job_id: str, headers: dict[str, str]
) -> None:
    problem(http.post(f"/v1/jobs/{job_id}/cancel", headers=headers), 403)
    own = {"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:8080"}
    assert http.post(f"/v1/jobs/{job_id}/cancel", headers=own).status_code == 202


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "//", "http://a:b:c"])
def test_an_origin_that_is_none_is_refused(http: FlaskClient, job_id: str, origin: str) -> None:
    problem(http.post(f"/v1/jobs/{job_id}/cancel", headers={"Origin": origin}), 403)


def test_a_page_of_another_site_changes_nothing_whoever_is_logged_in(
    guarded: FlaskClient, job_id: str
) -> None:
    allowed = {"Authorization": f"Bearer {ONE}"}
    foreign = allowed | {"Sec-Fetch-Site": "cross-site"}
    problem(guarded.post(f"/v1/jobs/{job_id}/cancel", headers=foreign), 403)
    assert guarded.get("/v1/jobs", headers=foreign).status_code == 200
    own = allowed | {"Sec-Fetch-Site": "same-origin"}
    assert guarded.post(f"/v1/jobs/{job_id}/cancel", headers=own).status_code == 202


# -- when something is away -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/jobs"),
        ("GET", f"/v1/jobs/{UNKNOWN}"),
        ("POST", "/v1/jobs"),
        ("POST", f"/v1/jobs/{UNKNOWN}/cancel"),
        ("DELETE", f"/v1/jobs/{UNKNOWN}"),
        ("GET", f"/v1/jobs/{UNKNOWN}/logs"),
        ("GET", "/v1/workers"),
        ("GET", "/v1/pools"),
        ("GET", "/v1/pools/gpu"),
        ("GET", "/readyz"),
    ],
)
def test_without_redis_the_answer_is_503_and_when_to_ask_again(
    settings: Settings, method: str, path: str, make_app: MakeApp
) -> None:
    app = make_app(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    http = app.test_client()
    answer = http.open(path, method=method, json=GOOD if path == "/v1/jobs" else None)
    assert "Redis" in problem(answer, 503)["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    assert http.get("/healthz").status_code == 200


def test_a_redis_that_takes_no_writes_is_one_that_is_away(
    http: FlaskClient, store: JobStore
) -> None:
    store.redis.config_set("maxmemory", 1)
    try:
        answer = http.post("/v1/jobs", json=GOOD)
    finally:
        store.redis.config_set("maxmemory", 0)
    assert "refuses" in problem(answer, 503)["detail"]
    assert answer.headers["Retry-After"]


def test_without_storage_the_answer_is_503(
    settings: Settings, http: FlaskClient, job_id: str, wait_until: Callable[..., Any]
) -> None:
    Path(settings.storage_url.removeprefix("file://")).symlink_to("experiments")
    assert "storage" in problem(http.get("/readyz"), 503)["detail"]
    assert "storage" in problem(http.get(f"/v1/jobs/{job_id}/logs"), 503)["detail"]
    assert http.get(f"/v1/jobs/{job_id}").status_code == 200


def test_a_stranger_does_not_learn_where_redis_is(settings: Settings, make_app: MakeApp) -> None:
    gone = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    here = make_app(gone).test_client()
    assert "127.0.0.1:1" in problem(here.get("/readyz"), 503)["detail"]
    guarded = make_app(gone.model_copy(update={"api_tokens": ONE})).test_client()
    for headers in ({}, {"Authorization": f"Bearer {ONE}"}, {"Authorization": "Bearer wrong"}):
        detail = problem(guarded.get("/readyz", headers=headers), 503)["detail"]
        assert "redis is not ready" in detail
        assert "127.0.0.1" not in detail
