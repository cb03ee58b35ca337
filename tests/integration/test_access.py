"""Who is let in: by proxies that are trusted, not too often, and not by trying tokens."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.server.access.access import COOKIE, CSRF
from api.server.access.rates import Guesses, Rates
from jobs.settings import Settings
from tests.integration.http_calls import GOOD, MakeApp, problem
from tests.integration.test_accounts import ADMIN, caller, created

PROXY, CLIENT = "10.1.2.3", "203.0.113.7"


@pytest.fixture
def app(settings: Settings, make_app: MakeApp) -> Flask:
    return make_app(
        settings.model_copy(
            update={
                "api_tokens": ADMIN, "trusted_proxies": "10.1.0.0/16, ::1",
                "sso_header": "X-Forwarded-User", "sso_role": "user", "sso_admins": "root@lab.org",
            }
        )
    )  # fmt: skip


def through(app: Flask, peer: str, **headers: str) -> FlaskClient:
    """A client whose connection comes from `peer`."""
    http = app.test_client()
    http.environ_base["REMOTE_ADDR"] = peer
    for name, value in headers.items():
        http.environ_base[f"HTTP_{name.upper()}"] = value
    return http


# -- single sign-on ---------------------------------------------------------------------------


def test_a_trusted_proxy_says_who_has_signed_in(app: Flask) -> None:
    ada = through(app, PROXY, x_forwarded_user="ada@lab.org", authorization="Basic YTpi")
    assert ada.get("/v1/me").get_json() == {
        "name": "ada@lab.org", "role": "user", "token": None, "csrf": "same-origin",
    }  # fmt: skip
    assert (
        through(app, PROXY, x_forwarded_user="root@lab.org").get("/v1/me").json["role"] == "admin"
    )
    problem(ada.post("/v1/jobs", json=GOOD), 403)
    job = ada.post("/v1/jobs", json=GOOD, headers={CSRF: "same-origin"}).get_json()
    assert job["owner"] == "ada@lab.org"


@pytest.mark.parametrize("peer", [CLIENT, "127.0.0.1", "10.2.0.1", "::2", ""])
def test_the_header_of_anybody_else_is_ignored(app: Flask, peer: str) -> None:
    problem(through(app, peer, x_forwarded_user="root@lab.org").get("/v1/me"), 401)


@pytest.mark.parametrize("name", ["a b", "ada/..", "*", "é", "x" * 65, "-ada"])
def test_a_name_that_cannot_be_an_account_is_refused(app: Flask, name: str) -> None:
    answer = through(app, PROXY, x_forwarded_user=name.encode().decode("latin-1")).get("/v1/me")
    assert "name" in problem(answer, 403)["detail"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        (PROXY, CLIENT, CLIENT),
        (PROXY, f"1.1.1.1, {CLIENT}, 10.1.9.9", CLIENT),  # the client wrote the first one itself
        (PROXY, f"[2001:db8::1]:99, {PROXY}", "2001:db8::1"),
        (PROXY, "nonsense", PROXY),
        (PROXY, "", PROXY),
        (CLIENT, "1.1.1.1", CLIENT),
    ],
)
def test_the_audit_has_the_address_of_the_client_behind_trusted_proxies(
    app: Flask, peer: str, forwarded: str, address: str
) -> None:
    http = through(app, peer, x_forwarded_for=forwarded, authorization=f"Bearer {ADMIN}")
    job = http.post("/v1/jobs", json=GOOD).get_json()["id"]
    (event,) = http.get(f"/v1/jobs/{job}/events").get_json()["events"]
    assert (event["by"], event["address"]) == ("admin", address)


def test_the_cookie_is_secure_where_the_proxy_speaks_tls(app: Flask) -> None:
    def cookie(peer: str) -> str:
        http = through(app, peer, x_forwarded_proto="https")
        return http.post("/v1/session", json={"token": ADMIN}).headers["Set-Cookie"]

    assert "Secure" in cookie(PROXY)
    assert "Secure" not in cookie(CLIENT)


# -- limits -----------------------------------------------------------------------------------


def test_a_token_makes_no_more_requests_than_it_may(app: Flask) -> None:
    admin = caller(app, ADMIN)
    slow = caller(
        app, created(admin, "ada", "viewer", limits={"requests_per_second": 0.5})["token"]
    )
    answers = [slow.get("/v1/me") for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 429, 429]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 2
    assert "requests per second" in problem(answers[-1], 429)["detail"]
    assert admin.get("/v1/me").status_code == 200


def test_a_bucket_fills_up_again() -> None:
    now = [0.0]
    rates = Rates(lambda: now[0])
    assert [rates.wait("a", 10) for _ in range(21)] == [0] * 20 + [1]
    now[0] = 0.5
    assert [rates.wait("a", 10) for _ in range(6)] == [0] * 5 + [1]
    assert rates.wait("b", 10) == 0


def test_an_address_that_tries_tokens_waits_longer_and_longer() -> None:
    now = [0.0]
    guesses = Guesses(lambda: now[0])
    waits = []
    for _ in range(16):
        guesses.note_wrong(CLIENT)
        waits.append(guesses.wait(CLIENT, None))
        now[0] += waits[-1]
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, *[60] * 6]
    assert guesses.wait("203.0.113.8", None) == 0
    now[0] += 2000
    guesses.note_wrong(CLIENT)
    assert guesses.wait(CLIENT, None) == 0, "it is forgotten after a while"


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    guesses = Guesses()
    for number in range(12_000):
        guesses.note_wrong(f"2001:db8:{number:x}::1")
        guesses.note_good(f"2001:db8:{number:x}::1", "t")
    assert len(guesses._wrong) == len(guesses._good) == 10_000
    for host in range(6):
        guesses.note_wrong(f"2001:db9::{host}")
    assert guesses.wait("2001:db9::ffff", None) > 0, "one network is one address"


def test_wrong_tokens_again_and_again_are_delayed_and_leave_a_line(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    known = through(app, CLIENT, authorization=f"Bearer {ADMIN}")
    assert known.get("/v1/me").status_code == 200
    other = created(known, "ada", "viewer")["token"]
    caplog.set_level(logging.WARNING)
    wrong = through(app, CLIENT, authorization="Bearer nonsense")
    statuses = [wrong.get("/v1/me").status_code for _ in range(60)]
    assert statuses[:5] == [401] * 5
    assert statuses[5:] == [429] * 55
    lines = [one.getMessage() for one in caplog.records if "wrong tokens" in one.getMessage()]
    assert len(lines) == 1
    assert CLIENT in lines[0]
    answer = wrong.get("/v1/me")
    assert int(answer.headers["Retry-After"]) >= 1
    # A right one is not told from a wrong one, unless it was used from there before.
    problem(through(app, CLIENT, authorization=f"Bearer {other}").get("/v1/me"), 429)
    problem(through(app, CLIENT).post("/v1/session", json={"token": other}), 429)
    assert known.get("/v1/me").status_code == 200
    assert (
        through(app, "203.0.113.9", authorization=f"Bearer {other}").get("/v1/me").status_code
        == 200
    )


def test_a_session_that_has_ended_is_no_guess(app: Flask) -> None:
    page = through(app, CLIENT)
    page.set_cookie(COOKIE, "spectrain_session_ended")
    answers = {page.get("/v1/me").status_code for _ in range(30)}
    assert answers == {401}, "open tabs of the page ask again and again"
    assert page.post("/v1/session", json={"token": ADMIN}).status_code == 200


def test_refused_requests_are_counted_by_reason(app: Flask) -> None:
    admin = caller(app, ADMIN)
    viewer = caller(app, created(admin, "ada", "viewer")["token"])
    viewer.post("/v1/jobs", json=GOOD)
    app.test_client().get("/v1/jobs")
    text = admin.get("/metrics").text

    def count(reason: str) -> Any:
        line = f'spectrain_requests_refused_total{{reason="{reason}"}} '
        return next(one for one in text.splitlines() if one.startswith(line)).split()[-1]

    assert (count("role"), count("no_token"), count("rate")) == ("1.0", "1.0", "0.0")
