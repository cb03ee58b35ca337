"""Accounts: roles on every call, tokens that come and go, sessions, and who did what."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.server.access.access import COOKIE, CSRF
from api.server.context import AppContext
from jobs.accounts import book
from jobs.accounts.token import Role, digest_of
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from tests.integration.http_calls import GOOD, UNKNOWN, MakeApp, problem, submitted
from tests.integration.one_worker import OwnRedis

ADMIN = "admin-of-sixteen-or-more"


@pytest.fixture
def guarded(settings: Settings) -> Settings:
    return settings.model_copy(update={"api_tokens": ADMIN})


@pytest.fixture
def app(guarded: Settings, make_app: MakeApp) -> Flask:
    return make_app(guarded)


@pytest.fixture
def admin(app: Flask) -> FlaskClient:
    return caller(app, ADMIN)


def caller(app: Flask, token: str) -> FlaskClient:
    """A client that sends the token with each request."""
    http = app.test_client()
    http.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    return http


def created(admin: FlaskClient, owner: str, role: str, **more: Any) -> dict[str, Any]:
    body = {"name": "laptop", "owner": owner, "role": role, **more}
    answer = admin.post("/v1/tokens", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.get_json())


def context_of(app: Flask) -> AppContext:
    return app.extensions["spectrain"]  # type: ignore[no-any-return]


# -- roles ------------------------------------------------------------------------------------


def calls(http: FlaskClient) -> list[tuple[str, str, str | None]]:
    """Method, path and role of every call that OpenAPI describes."""
    found = http.get("/v1/openapi.json").get_json()
    return [
        (method.upper(), path, operation["x-role"])
        for path, methods in found["paths"].items()
        for method, operation in methods.items()
    ]


def concrete(path: str) -> str:
    """The path with an argument of the right form in each place."""
    values = {"job_id": UNKNOWN, "other": UNKNOWN, "sha256": "0" * 64}
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], "unknown"), path)


def test_every_role_makes_the_calls_that_it_may_and_no_other(
    app: Flask, admin: FlaskClient
) -> None:
    clients = {role: caller(app, created(admin, "ada", role)["token"]) for role in Role}
    described = calls(admin)
    assert {path for _, path, role in described if role == "metrics"} == {"/metrics", "/v1/session"}
    assert {path for _, path, role in described if role is None} == {
        "/healthz", "/readyz", "/v1/reference", "/v1/session",
    }  # fmt: skip
    for method, path, needed in described:
        for role, http in clients.items():
            answer = http.open(concrete(path), method=method)
            allowed = needed is None or role.covers(Role(needed))
            assert (answer.status_code == 403) == (not allowed), (method, path, role, answer.text)
            assert answer.status_code != 401, (method, path, role)


def test_a_call_that_changes_something_needs_more_than_a_viewer(admin: FlaskClient) -> None:
    changing = [(m, p, r) for m, p, r in calls(admin) if m not in {"GET", "HEAD"}]
    readable = [call for call in changing if call[2] in {None, "metrics", "viewer"}]
    assert [(m, p) for m, p, _ in readable] == [("POST", "/v1/session"), ("DELETE", "/v1/session")]


def test_a_fork_of_somebody_elses_job_tells_their_services_nothing(
    app: Flask, admin: FlaskClient, guarded: Settings
) -> None:
    told = {"url": "https://hooks.example.com/ada", "on": ["finished"], "format": "json"}
    ada, bob = (caller(app, created(admin, name, "user")["token"]) for name in ("ada", "bob"))
    job = submitted(ada, notify=[told])["id"]
    run = Path(guarded.storage_url.removeprefix("file://")) / job
    (run / "work").mkdir(parents=True)
    (run / "work/notes.txt").write_text("so far\n")
    for http, expected in ((ada, [told]), (bob, [])):
        answer = http.post(f"/v1/jobs/{job}/fork", json={})
        assert answer.status_code == 201, answer.text
        assert answer.get_json()["spec"]["notify"] == expected


@pytest.mark.parametrize(
    ("method", "action", "body"),
    [
        ("POST", "/cancel", None), ("POST", "/preempt", None), ("POST", "/pause", None),
        ("POST", "/resume", None), ("POST", "/retry", None), ("PATCH", "", {"priority": 7}),
        ("DELETE", "", None),
    ],
)  # fmt: skip
def test_a_user_changes_only_his_own_jobs(
    app: Flask, admin: FlaskClient, method: str, action: str, body: Any
) -> None:
    ada, bob = (caller(app, created(admin, name, "user")["token"]) for name in ("ada", "bob"))
    mine, foreign, nobodys = submitted(ada), submitted(bob), context_of(app).store.submit
    unowned = nobodys(context_of(app).store.get(mine["id"]).spec).id
    for other in (foreign["id"], unowned):
        answer = ada.open(f"/v1/jobs/{other}{action}", method=method, json=body)
        assert "owner" in problem(answer, 403)["detail"]
        assert ada.get(f"/v1/jobs/{other}").status_code == 200
    for http in (ada, admin):
        answer = http.open(f"/v1/jobs/{mine['id']}{action}", method=method, json=body)
        assert answer.status_code in {200, 202, 204, 409}, answer.text
    problem(ada.post(f"/v1/jobs/{UNKNOWN}/cancel"), 404)


def test_a_job_has_its_owner_and_the_list_finds_his(app: Flask, admin: FlaskClient) -> None:
    ada = caller(app, created(admin, "ada", "user")["token"])
    mine, other = submitted(ada), submitted(admin)
    assert (mine["owner"], other["owner"]) == ("ada", "admin")
    found = ada.get("/v1/jobs?owner=ada").get_json()["jobs"]
    assert [job["id"] for job in found] == [mine["id"]]
    assert len(ada.get("/v1/jobs").get_json()["jobs"]) == 2


def test_without_tokens_the_caller_is_an_administrator_without_a_name(http: FlaskClient) -> None:
    assert http.get("/v1/me").get_json() == {
        "name": None, "role": "admin", "token": None, "csrf": None,
    }  # fmt: skip
    assert submitted(http)["owner"] is None


def test_a_job_that_its_owners_limit_would_hold_for_good_is_refused(
    app: Flask, admin: FlaskClient
) -> None:
    ada = caller(app, created(admin, "ada", "user", limits={"gpus": 2})["token"])
    submitted(ada, resources={"gpus": 2})
    wrong = problem(ada.post("/v1/jobs", json=GOOD | {"resources": {"gpus": 3}}), 422)
    assert wrong["errors"] == [
        {"field": "resources.gpus", "given": "3", "allowed": "at most 2, the limit of ada"}
    ]
    submitted(admin, resources={"gpus": 3})


def test_limits_reach_the_queue_and_a_held_job_says_so(
    app: Flask, admin: FlaskClient, store: JobStore
) -> None:
    ada = caller(app, created(admin, "ada", "user", limits={"running": 1})["token"])
    jobs = [submitted(ada)["id"] for _ in range(2)]
    assert store.claim("default", "w1") is not None
    assert store.claim("default", "w2") is None
    assert "ada runs 1 of 1 jobs" in ada.get(f"/v1/jobs/{jobs[1]}").get_json()["wait"]["reason"]
    assert ada.get(f"/v1/jobs/{jobs[0]}").get_json()["wait"] is None


# -- tokens -----------------------------------------------------------------------------------


def test_a_token_is_kept_hashed_and_shown_once(app: Flask, admin: FlaskClient) -> None:
    token = created(admin, "ada", "viewer")
    assert token["token"].startswith("spectrain_")
    store = context_of(app).store
    kept = store.redis.hgetall(store.keys.tokens)
    assert token["token"] not in str(kept)
    assert digest_of(token["token"]) in kept[token["id"]]
    listed = admin.get("/v1/tokens").get_json()["tokens"]
    assert {one["id"]: one["owner"] for one in listed}[token["id"]] == "ada"
    assert not any("digest" in one or "token" in one for one in listed)


def test_a_revocation_reaches_another_process(
    app: Flask, guarded: Settings, make_app: MakeApp, admin: FlaskClient,
    wait_until: Callable[..., Any],
) -> None:  # fmt: skip
    token = created(admin, "ada", "viewer")
    other = caller(make_app(guarded), token["token"])
    wait_until(lambda: other.get("/v1/jobs").status_code == 200, what="the token", seconds=5)
    assert admin.delete(f"/v1/tokens/{token['id']}").status_code == 204
    problem(caller(app, token["token"]).get("/v1/jobs"), 401)
    wait_until(lambda: other.get("/v1/jobs").status_code == 401, what="its end", seconds=5)
    problem(admin.delete(f"/v1/tokens/{token['id']}"), 404)
    setting = next(t for t in admin.get("/v1/tokens").get_json()["tokens"] if t["id"][0] == "s")
    assert "settings" in problem(admin.delete(f"/v1/tokens/{setting['id']}"), 404)["detail"]


def test_an_expired_token_is_refused(
    app: Flask, admin: FlaskClient, wait_until: Callable[..., Any]
) -> None:
    short = caller(app, created(admin, "ada", "viewer", expires_seconds=2)["token"])
    assert short.get("/v1/jobs").status_code == 200
    wait_until(lambda: short.get("/v1/jobs").status_code == 401, what="its end", seconds=10)


def test_known_tokens_work_while_redis_is_away(
    guarded: Settings, make_app: MakeApp, own_redis: OwnRedis
) -> None:
    config, start = own_redis
    redis = start()
    app = make_app(guarded.model_copy(update={"redis_url": config.url}))
    viewer = caller(app, created(caller(app, ADMIN), "ada", "viewer")["token"])
    redis.kill()
    redis.wait()
    assert viewer.get("/v1/openapi.json").status_code == 200
    problem(viewer.get("/v1/jobs"), 503)
    problem(caller(app, "wrong").get("/v1/jobs"), 401)


def test_a_file_of_tokens_is_read_again_when_it_changes(
    settings: Settings, make_app: MakeApp, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    file = tmp_path / "tokens.toml"
    entry = '[[token]]\nname = "ci"\nowner = "ada"\nrole = "{}"\nsha256 = "{}"\n'
    file.write_text(entry.format("viewer", digest_of("first")))
    app = make_app(settings.model_copy(update={"tokens_file": str(file)}))
    first, second = caller(app, "first"), caller(app, "second")
    assert first.get("/v1/me").get_json()["role"] == "viewer"
    file.write_text("[[token]]\nname = 7\n")  # it stays as it was
    problem(second.get("/v1/me"), 401)
    assert first.get("/v1/me").status_code == 200
    file.write_text(entry.format("user", digest_of("second")))
    wait_until(lambda: second.get("/v1/me").status_code == 200, what="the file", seconds=5)
    problem(first.get("/v1/me"), 401)


def test_when_a_token_was_used_is_noted_and_limits_outlast_a_loss_of_redis(
    guarded: Settings, make_app: MakeApp, store: JobStore, monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., Any],
) -> None:  # fmt: skip
    monkeypatch.setattr(book, "_USED_SECONDS", 0.0)
    app = make_app(guarded.model_copy(update={"owner_running": 3}))
    admin = caller(app, ADMIN)
    token = created(admin, "ada", "viewer")
    assert token["last_used_at"] is None
    caller(app, token["token"]).get("/v1/me")

    def used() -> Any:
        found = admin.get("/v1/tokens").get_json()["tokens"]
        return {one["id"]: one["last_used_at"] for one in found}[token["id"]]

    wait_until(used, what="the time of its use", seconds=10)
    store.redis.flushall()
    wait_until(lambda: store.redis.hgetall(store.keys.limits) == {"*": "3 -1"}, what="the limits")
    problem(caller(app, token["token"]).get("/v1/me"), 401)
    assert admin.get("/v1/me").status_code == 200


def test_the_file_may_take_rights_from_a_token_of_the_settings(
    guarded: Settings, make_app: MakeApp, tmp_path: Path
) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(
        f'[[token]]\nname = "p"\nowner = "prometheus"\nrole = "metrics"\ntoken = "{ADMIN}"\n'
    )
    scraper = caller(make_app(guarded.model_copy(update={"tokens_file": str(file)})), ADMIN)
    assert scraper.get("/metrics").status_code == 200
    problem(scraper.get("/v1/jobs"), 403)


# -- sessions ---------------------------------------------------------------------------------


def test_a_session_of_the_page_needs_its_csrf_token_for_changes(
    app: Flask, admin: FlaskClient
) -> None:
    token = created(admin, "ada", "user")
    page = app.test_client()
    problem(page.post("/v1/session", json={"token": "wrong"}), 401)
    answer = page.post("/v1/session", json={"token": token["token"]})
    assert answer.status_code == 200, answer.text
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert token["token"] not in cookie
    assert "Secure" in page.post(
        "/v1/session", json={"token": token["token"]}, base_url="https://localhost"
    ).headers["Set-Cookie"]  # fmt: skip
    csrf = page.get("/v1/me").get_json()["csrf"]
    problem(page.post("/v1/jobs", json=GOOD), 403)
    problem(page.post("/v1/jobs", json=GOOD, headers={CSRF: "0" * 32}), 403)
    assert page.post("/v1/jobs", json=GOOD, headers={CSRF: csrf}).get_json()["owner"] == "ada"
    problem(page.delete("/v1/session"), 403)
    session = page.get_cookie(COOKIE)
    assert session is not None
    problem(caller(app, session.value).get("/v1/jobs"), 401)  # it is no token
    assert page.delete("/v1/session", headers={CSRF: csrf}).status_code == 204
    problem(page.get("/v1/jobs"), 401)
    page.set_cookie(COOKIE, session.value)
    problem(page.get("/v1/jobs"), 401)


def test_a_session_ends_with_its_token(app: Flask, admin: FlaskClient) -> None:
    token = created(admin, "ada", "user")
    page = app.test_client()
    page.post("/v1/session", json={"token": token["token"]})
    assert page.get("/v1/jobs").status_code == 200
    assert len(admin.get("/v1/tokens").get_json()["tokens"]) == 2
    admin.delete(f"/v1/tokens/{token['id']}")
    problem(page.get("/v1/jobs"), 401)


# -- who did what -----------------------------------------------------------------------------


def test_each_change_says_who_made_it_and_from_where(
    app: Flask, admin: FlaskClient, store: JobStore
) -> None:
    ada = caller(app, created(admin, "ada", "user")["token"])
    job = submitted(ada)["id"]
    admin.patch(f"/v1/jobs/{job}", json={"priority": 7})
    assert store.claim("default", "w1") is not None
    ada.post(f"/v1/jobs/{job}/cancel")
    events = ada.get(f"/v1/jobs/{job}/events").get_json()["events"]
    assert [(one["type"], one["by"], one["address"]) for one in events] == [
        ("submitted", "ada", "127.0.0.1"), ("changed", "admin", "127.0.0.1"),
        ("started", None, None), ("requested", "ada", "127.0.0.1"),
    ]  # fmt: skip
    feed = ada.get("/v1/events").get_json()["events"]
    assert [one["by"] for one in feed] == ["ada", "admin", None, "ada"]


def test_who_deleted_a_job_is_in_the_copy_of_its_record(app: Flask, admin: FlaskClient) -> None:
    ada = caller(app, created(admin, "ada", "user")["token"])
    job = submitted(ada)["id"]
    context_of(app).storage.append(f"{job}/logs/output.log", 0, b"one\n")
    ada.post(f"/v1/jobs/{job}/cancel")
    assert ada.delete(f"/v1/jobs/{job}").status_code == 204
    kept = json.loads(context_of(app).storage.read(f"{job}/.record.json"))
    assert kept["fields"]["owner"] == "ada"
    events = [(kind, by, address) for _, _, kind, _, by, address in kept["events"]]
    assert events == [(k, "ada", "127.0.0.1") for k in ("submitted", "cancelled", "deleted")]


def test_changes_that_belong_to_no_job_are_in_the_audit(app: Flask, admin: FlaskClient) -> None:
    token = created(admin, "ada", "user")
    app.test_client().post("/v1/session", json={"token": token["token"]})
    admin.delete(f"/v1/tokens/{token['id']}")
    page = admin.get("/v1/audit").get_json()
    found = [(one["type"], one["by"], one["data"]["token"]) for one in page["entries"]]
    assert found == [
        ("token_created", "admin", token["id"]), ("logged_in", "ada", token["id"]),
        ("token_revoked", "admin", token["id"]),
    ]  # fmt: skip
    assert admin.get(f"/v1/audit?after={page['after']}").get_json()["entries"] == []
