"""Odd headers, paths and records: an answer that says so, and never an internal error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.webhooks.post import NotDeliveredError, Poster
from tests.integration.http_calls import submitted

DATES = [
    "Thu, 01 Jan 2020 00:00:00 +9999999999999", "Thu, 01 Jan 99999 00:00:00 GMT",
    "Mon, 32 Feb 2020 99:99:99 GMT", "\u0660".encode().decode("latin-1"),
]  # fmt: skip


@pytest.fixture
def run(http: FlaskClient, settings: Settings) -> tuple[str, Path]:
    """A job, and the directory of its run."""
    job = submitted(http)["id"]
    root = Path(settings.storage_url.removeprefix("file://")) / job
    (root / "logs").mkdir(parents=True)
    (root / "logs/output.log").write_text("[1] a\n")
    return job, root


@pytest.mark.parametrize("date", DATES)
def test_a_header_that_is_no_date_counts_as_none(
    http: FlaskClient, run: tuple[str, Path], date: str
) -> None:
    for name in ("If-Modified-Since", "If-Unmodified-Since", "If-Range"):
        headers = {name: date, "Range": "bytes=0-1"}
        for path in ("/", f"/v1/jobs/{run[0]}/artifacts/logs/output.log"):
            assert http.get(path, headers=headers, buffered=True).status_code in {200, 206}


@pytest.mark.parametrize("name", ["new\nline.txt", "tab\t.json", "a\x7f\x01.png", "\r\nX: y.txt"])
def test_a_file_is_fetched_whatever_its_name_is(
    http: FlaskClient, run: tuple[str, Path], name: str
) -> None:
    job, root = run
    (root / name).write_text("x")
    listed = [one["path"] for one in http.get(f"/v1/jobs/{job}/artifacts").get_json()["artifacts"]]
    assert name in listed
    for query in ("", "?download=true"):
        answer = http.get(f"/v1/jobs/{job}/artifacts/{quote(name)}{query}", buffered=True)
        assert (answer.status_code, answer.text) == (200, "x")
        assert "X" not in answer.headers


@pytest.mark.parametrize("path", ["a/" * 3000 + "b", "a" * 5000, "é" * 200])
def test_a_path_that_no_file_can_have_is_not_found(
    http: FlaskClient, run: tuple[str, Path], path: str
) -> None:
    assert http.get(f"/v1/jobs/{run[0]}/artifacts/{quote(path)}").status_code == 404


@pytest.mark.parametrize(
    "fields",
    [
        *({"at": "1.0", "type": "odd", "data": data} for data in (
            "[]", "null", "", "{bad", '{"a":NaN}', '{"a":1e999}', '{"a":"\\ud800"}',
            '{"a":' + "[" * 2000 + "]" * 2000 + "}",
        )),
        {"at": "nan", "type": "t", "data": "{}"},
        {"type": "t"},
        {"at": "1", "type": "t", "data": "{}", "field": "of a later version"},
    ],
)  # fmt: skip
def test_one_odd_event_hides_no_other(
    http: FlaskClient, store: JobStore, fields: dict[str, str]
) -> None:
    job = submitted(http)["id"]
    keys, redis = store.keys, store.redis
    redis.xadd(keys.events(job), fields)
    redis.xadd(keys.all_events, {**fields, "job": job})
    redis.xadd(keys.audit, fields)
    submitted(http)
    seen: dict[str, Any] = {}
    for path in (f"/v1/jobs/{job}/events", "/v1/events", "/v1/jobs", "/v1/audit"):
        answer = http.get(path)
        assert answer.status_code == 200, path
        seen[path] = json.loads(answer.text)
    assert seen[f"/v1/jobs/{job}/events"]["events"][0]["type"] == "submitted"
    assert len(seen["/v1/jobs"]["jobs"]) == 2


def test_a_cursor_is_made_of_digits(http: FlaskClient) -> None:
    for path in ("/v1/audit", "/v1/events"):
        assert http.get(f"{path}?after=%D9%A3-1").status_code == 422


@pytest.mark.parametrize("host", ["...", "a..b", "x" * 70])
def test_a_notice_to_what_is_no_host_is_a_failed_try(host: str) -> None:
    with pytest.raises(NotDeliveredError):
        Poster(anywhere=False).post(f"http://{host}/", b"{}", {})
