"""What the tests of the HTTP calls share: good input, and what answers must look like."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from jobs.model.record import Attempt
from jobs.model.states import Reason
from jobs.settings import Settings
from jobs.store.jobs import JobStore

MakeApp = Callable[[Settings], Flask]

GOOD: dict[str, Any] = {"name": "wave", "train": {"steps": 100}}
UNKNOWN = "wave-23456789"


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
