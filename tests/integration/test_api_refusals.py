"""What the HTTP calls refuse, each as a problem that names the field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.server.app import MAX_BODY_BYTES
from jobs.settings import Settings
from tests.integration.http_calls import GOOD, UNKNOWN, MakeApp, problem


@pytest.mark.parametrize(
    ("body", "field", "allowed"),
    [
        (GOOD | {"prioritty": 1}, "prioritty", "did you mean priority?"),
        (GOOD | {"train": {"steps": "many"}}, "train.steps", "a valid integer"),
        ({"name": "a"}, "(top level)", "`train` and `command`"),
        (GOOD | {"command": ["true"]}, "(top level)", "`train` and `command`"),
        (GOOD | {"resources": {"gpus": -1}}, "resources.gpus", "greater than or equal to 0"),
        (GOOD | {"name": "a/b"}, "name", "should match pattern"),
        ({"name": "a", "command": ["x"], "stop_signal": "KILL"}, "stop_signal", "'SIGUSR1'"),
        ({"name": "a", "command": "python t.py"}, "command", '["python", "t.py"]'),
        (
            {"name": "a", "command": ["t", "$SPECTRAIN_RUN_DIR"]},
            "command",
            "write $(SPECTRAIN_RUN_DIR) in place of $SPECTRAIN_RUN_DIR in item 1",
        ),
        (
            {"name": "a", "command": ["t"], "resume_args": ["$(SPECTRAIN_X)"]},
            "resume_args",
            "in place of $(SPECTRAIN_X)",
        ),
        ({"name": "a", "command": ["python t.py"]}, "command", '["python", "t.py"]'),
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
        ("GET", "/nothing", 404),
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
