"""The HTTP call that compares several jobs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from jobs.settings import Settings
from tests.integration.http_calls import UNKNOWN, problem, submitted
from tests.integration.test_api_diff import put, rows


def compare(http: FlaskClient, *jobs: str) -> dict[str, Any]:
    answer = http.get("/v1/compare", query_string={"job": jobs})
    assert answer.status_code == 200, answer.text
    return dict(json.loads(answer.data, parse_constant=pytest.fail))


@pytest.fixture
def three(http: FlaskClient) -> list[str]:
    return [str(submitted(http)["id"]) for _ in range(3)]


def test_what_is_the_same_in_all_jobs_is_left_out(http: FlaskClient, three: list[str]) -> None:
    assert compare(http, *three) == {
        "jobs": three,
        "specification": {},
        "code": {"workspace": None, "commit": None, "patch": None},
        "environment": {},
        "results": {},
        "curves": {three[1]: {}, three[2]: {}},
    }


def test_specification_code_and_environment_have_a_value_for_each_job(
    http: FlaskClient, settings: Settings, three: list[str]
) -> None:
    other = submitted(http, train={"steps": 100, "optimizer": {"lr": 0.5}}, priority=7)["id"]
    jobs = [three[0], other, three[2]]
    for job, version in ((three[0], "2.0"), (three[2], "2.1")):
        config = {"software": {"packages": {"numpy": version, "torch": "2"}}}
        put(settings, job, "config.json", config)
        put(settings, job, "git.json", {"commit": version})
    found = compare(http, *jobs)
    assert found["specification"]["priority"] == [5, 7, 5]
    assert found["specification"]["train.optimizer.lr"] == [0.001, 0.5, 0.001]
    # A run that has recorded nothing yet is no reason to list all packages.
    assert found["environment"] == {"software.packages.numpy": ["2.0", None, "2.1"]}
    assert found["code"] == {"workspace": None, "commit": ["2.0", None, "2.1"], "patch": None}


def test_results_are_those_of_all_rows(
    http: FlaskClient, settings: Settings, three: list[str]
) -> None:
    long = [
        {"step": step, "loss": abs(step - 40_000) / 7, "val_accuracy": step / 3, "lr": 1.0}
        for step in range(50_000)
    ]
    put(settings, three[0], "logs/metrics.jsonl", rows(*long))
    short: list[dict[str, Any]] = [
        {"step": 0, "loss": 2.0, "only": "NaN"}, {"step": 1, "loss": float("nan")},
    ]  # fmt: skip
    put(settings, three[1], "logs/metrics.jsonl", rows(*short))
    found = compare(http, *three)["results"]
    assert found["loss"] == [
        {"last": 9_999 / 7, "min": 0.0, "max": 40_000 / 7, "best": 0.0},
        {"last": "NaN", "min": 2.0, "max": 2.0, "best": 2.0},
        None,
    ]
    assert found["val_accuracy"][0]["best"] == 49_999 / 3
    assert found["lr"][0]["best"] is None, "neither end of it is better"
    assert found["only"] == [None, {"last": "NaN", "min": None, "max": None, "best": None}, None]


def test_each_curve_is_compared_with_that_of_the_first_job(
    http: FlaskClient, settings: Settings, three: list[str]
) -> None:
    usual = [{"step": step, "loss": step / 4} for step in range(100)]
    changed = [row | ({"loss": -1.0} if row["step"] == 60 else {}) for row in usual]
    for job, given in zip(three, (usual, usual, changed), strict=True):
        put(settings, job, "logs/metrics.jsonl", rows(*given))
    assert compare(http, *three)["curves"] == {three[1]: {"loss": None}, three[2]: {"loss": 60}}


def test_between_two_and_twenty_jobs_are_compared(http: FlaskClient, three: list[str]) -> None:
    problem(http.get("/v1/compare"), 422)
    problem(http.get("/v1/compare", query_string={"job": three[:1]}), 422)
    problem(http.get("/v1/compare", query_string={"job": three * 7}), 422)
    problem(http.get("/v1/compare", query_string={"job": [three[0], "../x"]}), 422)
    problem(http.get("/v1/compare", query_string={"job": [three[0], UNKNOWN]}), 404)
