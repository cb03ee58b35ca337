"""The HTTP calls, with a real Redis and files in a real directory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from api.server.app import MAX_BODY_BYTES, create_app
from jobs.model.record import Attempt, Progress
from jobs.model.states import Reason
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry

MakeApp = Callable[[Settings], Flask]

GOOD: dict[str, Any] = {"name": "wave", "train": {"steps": 100}}
UNKNOWN = "wave-23456789"


@pytest.fixture
def make_app() -> Iterator[MakeApp]:
    """Makes applications whose connections are closed after the test."""
    made: list[Flask] = []

    def make(settings: Settings) -> Flask:
        made.append(create_app(settings))
        return made[-1]

    yield make
    for app in made:
        app.extensions["spectrain"].close()


@pytest.fixture
def http(settings: Settings, make_app: MakeApp) -> FlaskClient:
    return make_app(settings).test_client()


@pytest.fixture
def job_id(http: FlaskClient) -> str:
    return str(submitted(http)["id"])


@pytest.fixture
def run(settings: Settings, job_id: str) -> Path:
    """The job's run directory, as its worker left it."""
    root = Path(settings.storage_url.removeprefix("file://")) / job_id
    (root / "logs").mkdir(parents=True)
    (root / "logs/output.log").write_bytes("one\ntwo ∿\nthree\n".encode())
    rows = [{"step": step, "loss": 1 / 3 + step} for step in range(0, 50, 10)]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 50, "lo'
    (root / "logs/metrics.jsonl").write_text(text)
    (root / "results.json").write_text('{"loss": 1.0}')
    return root


def submitted(http: FlaskClient, **changes: Any) -> dict[str, Any]:
    answer = http.post("/v1/jobs", json=GOOD | changes)
    assert answer.status_code == 201, answer.text
    return dict(answer.get_json())


def problem(answer: TestResponse, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/problem+json"
    body = json.loads(answer.data)
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return dict(body)


def run_to(store: JobStore, reason: Reason) -> None:
    job = store.claim("default", "w1")
    assert job is not None
    attempt = Attempt(number=job.attempt, worker="w1", started_at=1.0, ended_at=2.0, reason=reason)
    store.finish(job.id, attempt)


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


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field", "allowed"),
    [
        (GOOD | {"prioritty": 1}, "prioritty", "did you mean priority?"),
        (GOOD | {"train": {"steps": "many"}}, "train.steps", "a valid integer"),
        ({"name": "a"}, "(top level)", "`train` and `command`"),
        (GOOD | {"command": ["true"]}, "(top level)", "`train` and `command`"),
        (GOOD | {"resources": {"gpus": -1}}, "resources.gpus", "greater than or equal to 0"),
        (GOOD | {"name": "a/b"}, "name", "should match pattern"),
        ([GOOD], "(top level)", "an object"),
    ],
)
def test_a_wrong_specification_is_refused_by_field_and_leaves_nothing(
    http: FlaskClient, settings: Settings, redis_url: str, body: object, field: str, allowed: str
) -> None:
    errors = problem(http.post("/v1/jobs", json=body), 422)["errors"]
    assert [error["field"] for error in errors] == [field]
    assert allowed in errors[0]["allowed"]
    assert nothing_left(settings, redis_url)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ('{"name": "a", "name": "b", "train": {}}', ["name"]),
        ('{"name": "a", "train": {"steps": 1, "steps": 1}}', ["train.steps"]),
        ('{"name": "a", "command": ["x"], "env": {"A": "1", "A": "2", "A": "3"}}', ["env.A"]),
        ('[{"a": 1, "a": 2}, {"b": [{"c": 1, "c": 1}], "d": 1, "d": 1}]',
         ["[0].a", "[1].b[0].c", "[1].d"]),
        (r'{"name": "a", "n\u0061me": "b", "train": {}}', ["name"]),
    ],
)  # fmt: skip
def test_a_key_that_comes_twice_is_refused_at_any_depth(
    http: FlaskClient, settings: Settings, redis_url: str, text: str, fields: list[str]
) -> None:
    answer = http.post("/v1/jobs", data=text, content_type="application/json")
    errors = problem(answer, 422)["errors"]
    assert sorted(error["field"] for error in errors) == sorted(fields)
    assert all(error["allowed"] == "one value" for error in errors)
    assert nothing_left(settings, redis_url)


def test_a_change_that_names_a_limit_twice_is_refused(http: FlaskClient, job_id: str) -> None:
    text = '{"limits": {"run_seconds": 5, "run_seconds": null}}'
    answer = http.patch(f"/v1/jobs/{job_id}", data=text, content_type="application/json")
    assert [e["field"] for e in problem(answer, 422)["errors"]] == ["limits.run_seconds"]


def test_a_number_that_no_record_could_hold_is_refused(
    http: FlaskClient, settings: Settings, redis_url: str
) -> None:
    body = b'{"name": "a", "train": {"optimizer": {"weight_decay": 1e999}}}'
    answer = http.post("/v1/jobs", data=body, content_type="application/json")
    (error,) = problem(answer, 422)["errors"]
    assert error["field"] == "train.optimizer.weight_decay"
    assert nothing_left(settings, redis_url)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"no json", "application/json", 400),
        (b"", "application/json", 400),
        (b'{"name": "\xff"}', "application/json", 400),
        (b'{"name": NaN}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (json.dumps(GOOD).encode(), "text/plain", 415),
        (json.dumps(GOOD).encode(), "application/x-www-form-urlencoded", 415),
        (json.dumps(GOOD).encode(), None, 415),
        (json.dumps(GOOD | {"labels": {"a": "x" * 2_000_000}}).encode(), "application/json", 413),
    ],
)
def test_what_is_no_json_or_too_large_is_refused_and_leaves_nothing(
    http: FlaskClient,
    settings: Settings,
    redis_url: str,
    body: bytes,
    content_type: str | None,
    status: int,
) -> None:
    problem(http.post("/v1/jobs", data=body, content_type=content_type), status)
    assert nothing_left(settings, redis_url)


def nothing_left(settings: Settings, redis_url: str) -> bool:
    redis = Redis.from_url(redis_url)
    size = redis.dbsize()
    redis.close()
    return size == 0 and not Path(settings.storage_url.removeprefix("file://")).exists()


def test_a_body_is_refused_by_its_announced_length_before_it_is_read(http: FlaskClient) -> None:
    class Unread:
        def read(self, *_: object) -> bytes:
            raise AssertionError("was read")

    answer = http.open(
        "/v1/jobs",
        method="POST",
        content_type="application/json",
        environ_overrides={"wsgi.input": Unread(), "CONTENT_LENGTH": str(MAX_BODY_BYTES + 1)},
    )
    problem(answer, 413)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs?statee=queued",
        "/v1/jobs?limit=0",
        "/v1/jobs?limit=1&limit=2",
        "/v1/jobs?cursor=x",
        "/v1/jobs?label=team",
        "/v1/jobs?state=done",
        f"/v1/jobs/{UNKNOWN}?x=1",
        f"/v1/jobs/{UNKNOWN}/events?after=x",
        f"/v1/jobs/{UNKNOWN}/logs?offset=-1",
        f"/v1/jobs/{UNKNOWN}/metrics?after_step=1e3",
        f"/v1/jobs/{UNKNOWN}/metrics?cursor=12",
    ],
)
def test_unknown_and_wrong_query_parameters_are_refused(http: FlaskClient, path: str) -> None:
    (error,) = problem(http.get(path), 422)["errors"]
    assert error["field"].split("[")[0] in path


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/jobs/", 404),
        ("GET", f"/v1/jobs/{UNKNOWN}", 404),
        ("GET", "/v1/jobs/..%2f..%2fetc", 404),
        ("GET", "/v1/jobs/no id", 404),
        ("GET", f"/v1//jobs/{UNKNOWN}", 404),
        ("POST", f"/v1/jobs/{UNKNOWN}/cancel", 404),
        ("POST", f"/v1/jobs/{UNKNOWN}/explode", 404),
        ("DELETE", f"/v1/jobs/{UNKNOWN}", 404),
        ("GET", f"/v1/jobs/{UNKNOWN}/logs", 404),
        ("GET", f"/v1/jobs/{UNKNOWN}/events", 404),
        ("GET", f"/v1/jobs/{UNKNOWN}/metrics", 404),
        ("GET", f"/v1/jobs/{UNKNOWN}/artifacts", 404),
        ("GET", f"/v1/jobs/{UNKNOWN}/artifacts/results.json", 404),
        ("PUT", "/v1/jobs", 405),
        ("POST", "/healthz", 405),
    ],
)
def test_every_error_is_a_problem(http: FlaskClient, method: str, path: str, status: int) -> None:
    answer = http.open(path, method=method)
    problem(answer, status)
    assert ("Allow" in answer.headers) == (status == 405)


def test_a_bug_is_a_problem_that_tells_nothing_of_the_inside(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, make_app: MakeApp
) -> None:
    app = make_app(settings)

    def fail(_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(app.extensions["spectrain"].store, "get", fail)
    answer = app.test_client().get(f"/v1/jobs/{UNKNOWN}")
    assert "secret" not in json.dumps(problem(answer, 500))


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


# -- runs -------------------------------------------------------------------------------------


def test_events_are_read_in_pages_and_from_where_one_was(
    http: FlaskClient, store: JobStore, job_id: str
) -> None:
    path = f"/v1/jobs/{job_id}/events"
    first = http.get(path, query_string={"limit": 1}).get_json()
    assert [event["type"] for event in first["events"]] == ["submitted"]
    nothing = http.get(path, query_string={"after": first["after"]}).get_json()
    assert nothing == {"events": [], "after": first["after"]}
    store.claim("default", "w1")
    more = http.get(path, query_string={"after": first["after"]}).get_json()
    assert more["events"]


def test_a_log_is_followed_by_its_bytes(http: FlaskClient, job_id: str, run: Path) -> None:
    path, log = f"/v1/jobs/{job_id}/logs", run / "logs/output.log"
    text, offset = b"", 0
    while part := http.get(path, query_string={"offset": offset, "limit": 5}):
        if not part.data:
            break
        text, offset = text + part.data, int(part.headers["Spectrain-Next-Offset"])
    assert text == log.read_bytes()
    assert part.headers["Spectrain-Job-State"] == "queued"
    with log.open("ab") as file:
        file.write(b"four\n")
    assert http.get(path, query_string={"offset": offset}).data == b"four\n"


def test_a_log_that_was_cut_goes_on_from_its_end(http: FlaskClient, job_id: str, run: Path) -> None:
    answer = http.get(f"/v1/jobs/{job_id}/logs", query_string={"offset": 10_000})
    assert answer.data == b""
    assert int(answer.headers["Spectrain-Next-Offset"]) == (run / "logs/output.log").stat().st_size


def test_a_job_without_a_run_has_an_empty_log_no_rows_and_no_files(
    http: FlaskClient, job_id: str
) -> None:
    assert http.get(f"/v1/jobs/{job_id}/logs").data == b""
    assert http.get(f"/v1/jobs/{job_id}/metrics").get_json() == {
        "rows": [], "cursor": None, "after_step": None,
    }  # fmt: skip
    assert http.get(f"/v1/jobs/{job_id}/artifacts").get_json() == {"artifacts": []}


def test_metrics_come_with_all_digits_and_without_the_half_written_row(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    path = f"/v1/jobs/{job_id}/metrics"
    page = http.get(path).get_json()
    assert [row["loss"] for row in page["rows"]] == [1 / 3 + step for step in range(0, 50, 10)]
    assert page["after_step"] == 40
    rest = http.get(path, query_string={"after_step": 20, "limit": 1}).get_json()
    assert [row["step"] for row in rest["rows"]] == [30]


def test_a_loss_that_is_not_finite_has_one_form_in_every_answer(
    http: FlaskClient, store: JobStore, job_id: str, run: Path
) -> None:
    words = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    store.claim("default", "w1")
    for word, value in words.items():
        # As the monitoring library writes it, and as `json.dumps` does.
        (run / "logs/metrics.jsonl").write_text(
            f'{{"step": 1, "loss": "{word}"}}\n{{"step": 2, "loss": {word}, "deep": [{word}]}}\n'
        )
        store.renew(job_id, 1, Progress(loss=value, tokens_per_second=value))
        answers = {
            path: json.loads(http.get(path).data, parse_constant=pytest.fail)
            for path in ("/v1/jobs", f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/metrics")
        }
        listed, shown, page = answers.values()
        for progress in (listed["jobs"][0]["progress"], shown["progress"]):
            assert (progress["loss"], progress["tokens_per_second"]) == (word, word)
        assert [row["loss"] for row in page["rows"]] == [word, word]
        assert page["rows"][1]["deep"] == [word]
        job = store.get(job_id)
        assert job.progress is not None
        assert repr(job.progress.loss) == repr(value)


def test_rows_that_are_none_and_values_that_json_lacks_do_no_harm(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    text = 'no json\n[1]\n{"step": "x"}\n\n{"step": 1, "loss": NaN}\n{"step": 2, "loss": "NaN"}\n'
    (run / "logs/metrics.jsonl").write_text(text)
    answer = http.get(f"/v1/jobs/{job_id}/metrics")
    rows = json.loads(answer.data, parse_constant=pytest.fail)["rows"]
    assert rows == [{"step": 1, "loss": "NaN"}, {"step": 2, "loss": "NaN"}]


def test_files_are_listed_and_fetched_whole_or_in_part(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    path = f"/v1/jobs/{job_id}/artifacts"
    files = {file["path"]: file for file in http.get(path).get_json()["artifacts"]}
    assert set(files) == {"logs/metrics.jsonl", "logs/output.log", "results.json"}
    assert files["results.json"]["size"] == 13
    whole = http.get(f"{path}/results.json")
    assert (whole.status_code, whole.data) == (200, b'{"loss": 1.0}')
    part = http.get(f"{path}/results.json", headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.data) == (206, b"loss")
    same = http.get(f"{path}/results.json", headers={"If-None-Match": whole.headers["ETag"]})
    assert same.status_code == 304
    beyond = http.get(f"{path}/results.json", headers={"Range": "bytes=99-"})
    problem(beyond, 416)
    for answer in (whole, part, same):
        answer.close()


@pytest.mark.parametrize(
    "path",
    [
        "../other",
        "%2e%2e/%2e%2e/secret",
        "logs/../../secret",
        ".fence",
        "logs",
        "none",
        "logs//output.log",
        "way-out",
        "way-up/secret",
        "a\x00b",
        "a" * 256,
    ],
)
def test_no_path_leads_out_of_a_run(http: FlaskClient, job_id: str, run: Path, path: str) -> None:
    (run.parent / "secret").write_text("secret")
    (run / ".fence").write_text("1")
    (run / "way-out").symlink_to(run.parent / "secret")
    (run / "way-up").symlink_to(run.parent)
    problem(http.get(f"/v1/jobs/{job_id}/artifacts/{path}"), 404)


def test_a_link_inside_a_run_is_followed(http: FlaskClient, job_id: str, run: Path) -> None:
    (run / "latest").symlink_to("results.json")
    with http.get(f"/v1/jobs/{job_id}/artifacts/latest") as answer:
        assert answer.data == b'{"loss": 1.0}'


def test_a_page_that_a_run_wrote_cannot_act_in_the_services_name(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    (run / "page.html").write_text("<script>")
    with http.get(f"/v1/jobs/{job_id}/artifacts/page.html") as answer:
        assert answer.headers["Content-Security-Policy"].startswith("sandbox")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


# -- who may call -----------------------------------------------------------------------------


@pytest.fixture
def guarded(settings: Settings, make_app: MakeApp) -> FlaskClient:
    return make_app(settings.model_copy(update={"api_tokens": "one, two"})).test_client()


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer three", "Basic one", "Bearer onetwo"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/openapi.json", "/nowhere"])
def test_nobody_calls_without_a_token(guarded: FlaskClient, header: str | None, path: str) -> None:
    answer = guarded.get(path, headers={"Authorization": header} if header else {})
    problem(answer, 401)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("header", ["Bearer one", "bearer two"])
def test_every_token_of_the_settings_opens(guarded: FlaskClient, header: str) -> None:
    assert guarded.get("/v1/jobs", headers={"Authorization": header}).status_code == 200


def test_probes_need_no_token(guarded: FlaskClient) -> None:
    assert guarded.get("/healthz").status_code == 200
    assert guarded.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}],
)
def test_without_tokens_no_web_page_of_somebody_else_calls(
    http: FlaskClient, job_id: str, headers: dict[str, str]
) -> None:
    problem(http.post(f"/v1/jobs/{job_id}/cancel", headers=headers), 403)
    own = {"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:8080"}
    assert http.post(f"/v1/jobs/{job_id}/cancel", headers=own).status_code == 202


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
