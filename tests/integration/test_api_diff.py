"""The HTTP call that compares two jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from jobs.settings import Settings
from tests.integration.http_calls import UNKNOWN, problem, submitted


def diff(http: FlaskClient, one: str, other: str) -> dict[str, Any]:
    answer = http.get(f"/v1/jobs/{one}/diff/{other}")
    assert answer.status_code == 200, answer.text
    return dict(json.loads(answer.data, parse_constant=pytest.fail))


@pytest.fixture
def pair(http: FlaskClient, settings: Settings) -> tuple[str, str]:
    ids = [str(submitted(http)["id"]) for _ in range(2)]
    return ids[0], ids[1]


def put(settings: Settings, job_id: str, path: str, data: bytes | dict[str, Any]) -> None:
    file = Path(settings.storage_url.removeprefix("file://")) / job_id / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())


def rows(*given: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in given)


NOTHING: dict[str, Any] = {
    "specification": {},
    "code": {"workspace": None, "commit": None, "patch": None},
    "environment": {},
    "curves": {},
}


def test_two_jobs_of_the_same_specification_do_not_differ(
    http: FlaskClient, pair: tuple[str, str]
) -> None:
    assert diff(http, *pair) == NOTHING
    assert diff(http, pair[0], pair[0]) == NOTHING
    problem(http.get(f"/v1/jobs/{pair[0]}/diff/{UNKNOWN}"), 404)
    problem(http.get(f"/v1/jobs/{UNKNOWN}/diff/{pair[0]}"), 404)


def test_specifications_are_compared_key_by_key(http: FlaskClient, job_id: str) -> None:
    train = {"steps": 100, "optimizer": {"lr": 0.5}}
    other = submitted(http, train=train, labels={"team": "waves"}, priority=7)["id"]
    found = diff(http, job_id, other)["specification"]
    assert found.pop("train.optimizer.lr")["other"] == 0.5
    assert found == {
        "priority": {"job": 5, "other": 7},
        "labels": {"job": {}, "other": None},
        "labels.team": {"job": None, "other": "waves"},
    }


def test_code_and_environment_are_compared_by_what_the_runs_recorded(
    http: FlaskClient, settings: Settings, pair: tuple[str, str]
) -> None:
    one, other = pair
    for job_id, version in ((one, "2.0"), (other, "2.1")):
        software = {"python": "3.11", "packages": {"numpy": version, "torch": "2"}}
        config = {"software": software, "hardware": {"gpu": ["L4"]}, "seeds": {"torch": version}}
        put(settings, job_id, "config.json", config)
        put(settings, job_id, "git.json", {"commit": "abc", "branch": version})
    put(settings, one, "git.patch", b"+ a line\n")
    found = diff(http, *pair)
    assert found["environment"] == {"software.packages.numpy": {"job": "2.0", "other": "2.1"}}
    assert (found["code"]["commit"], found["code"]["workspace"]) == (None, None)
    assert (len(found["code"]["patch"]["job"]), found["code"]["patch"]["other"]) == (64, None)
    put(settings, other, "git.patch", b"+ a line\n")
    put(settings, other, "git.json", {"commit": "def"})
    assert diff(http, *pair)["code"] == {
        "workspace": None, "patch": None, "commit": {"job": "abc", "other": "def"},
    }  # fmt: skip


@pytest.mark.parametrize("text", [b"[", b"[1]", b"\xff", b"[" * 100_000, b'{"software": 1}'])
def test_files_that_a_program_wrote_in_their_place_do_no_harm(
    http: FlaskClient, settings: Settings, pair: tuple[str, str], text: bytes
) -> None:
    for path in ("config.json", "git.json", "git.patch", "logs/metrics.jsonl"):
        put(settings, pair[0], path, text)
    found = diff(http, *pair)
    assert (found["environment"], found["code"]["commit"], found["curves"]) == ({}, None, {})


def test_a_lone_surrogate_in_a_configuration_does_no_harm(
    http: FlaskClient, settings: Settings, pair: tuple[str, str]
) -> None:
    put(settings, pair[0], "config.json", b'{"software": {"a": "\\ud800", "b": NaN}}')
    put(settings, pair[1], "config.json", b'{"software": {"a": "x", "b": 1}}')
    found = diff(http, *pair)["environment"]
    assert found["software.a"] == {"job": "\N{REPLACEMENT CHARACTER}", "other": "x"}
    assert found["software.b"] == {"job": "NaN", "other": 1}


def test_curves_differ_from_the_first_step_at_which_both_have_another_number(
    http: FlaskClient, settings: Settings, pair: tuple[str, str]
) -> None:
    usual = [
        {
            "step": step,
            "timestamp": 1.0,
            "loss": step / 4,
            "same": 1,
            "nan": "NaN",
            "text": "a",
            "tokens_per_sec": 7.0,
        }
        for step in range(100)
    ]
    changed = {"timestamp": 2.0, "tokens_per_sec": 8.0, "text": "b", "nan": float("nan")}
    other = [{**row, **changed} for row in usual]
    other[60]["loss"] = usual[60]["loss"] + 1e-12
    other[80] = {**other[80], "loss": "NaN"}
    usual[7] |= {"rare": 1.0, "apart": 2.0}
    # The other run logs less often, its validation in a row of its own, and runs longer.
    other = [row for row in other if row["step"] % 2 == 0 or row["step"] == 7]
    other.insert(other.index(other[4]) + 1, {"step": 7, "rare": 2.0})
    other += [{"step": step, "loss": -1.0, "apart": 3.0} for step in range(100, 120)]
    put(settings, pair[0], "logs/metrics.jsonl", rows(*usual))
    put(settings, pair[1], "logs/metrics.jsonl", rows(*other))
    expected = {"apart": None, "loss": 60, "nan": None, "rare": 7, "same": None}
    assert diff(http, *pair)["curves"] == expected
    assert diff(http, *reversed(pair))["curves"] == expected
