"""Calls that wait for storage have threads of their own, and hold up none that do not."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest
from flask import Flask

from api.server.app import create_app
from api.server.connections.threads import Threads
from jobs.settings import Settings


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    return create_app(Settings(storage_url=tmp_path_factory.mktemp("runs").as_uri()))


@pytest.fixture(scope="module")
def threads(app: Flask) -> Iterator[Threads]:
    found = Threads(app)
    yield found
    found.shutdown()


@pytest.mark.parametrize(
    ("call", "group"),
    [
        ("GET /healthz", "health"),
        ("GET /v1/jobs", "records"),
        ("POST /v1/jobs", "records"),
        ("POST /v1/jobs/a-23456789/cancel", "records"),
        ("GET /v1/jobs/a-23456789/series", "runs"),
        ("POST /v1/jobs/a-23456789/fork", "runs"),
        ("DELETE /v1/jobs/a-23456789", "runs"),
        ("GET /v1/jobs/a-23456789/artifacts.zip", "downloads"),
        ("GET /nowhere", "health"),
    ],
)
def test_a_call_waits_with_those_that_wait_for_the_same(
    threads: Threads, call: str, group: str
) -> None:
    assert threads.group_of(*call.split()) == group


def test_no_call_that_uses_storage_is_among_those_that_do_not(app: Flask, threads: Threads) -> None:
    for rule in app.url_map.iter_rules():
        view = inspect.getsource(inspect.unwrap(app.view_functions[rule.endpoint]))
        if re.search(r"context\(\)\.(storage|curves)\b", view):
            path = re.sub(r"<path:\w+>", "x", re.sub(r"<job_id:\w+>", "a-23456789", rule.rule))
            path = re.sub(r"<[\w:]+>", "0" * 64, path)
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                assert threads.group_of(method, path) in {"runs", "downloads"}, rule.endpoint
