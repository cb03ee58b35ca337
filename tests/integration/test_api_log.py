"""The HTTP call for the output of a run: its last lines, those of an attempt, those with a text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.server.runs import log as log_module
from tests.integration.http_calls import UNKNOWN, problem

LINES = [f"[{1 + (number >= 60)}] line {number} ∿\n" for number in range(100)]


@pytest.fixture
def log(run: Path) -> Path:
    file = run / "logs/output.log"
    file.write_text("".join(LINES))
    return file


def text(http: FlaskClient, job_id: str, **query: Any) -> str:
    answer = http.get(f"/v1/jobs/{job_id}/logs", query_string=query)
    assert answer.status_code == 200, answer.text
    return answer.data.decode()


def pages(http: FlaskClient, job_id: str, **query: Any) -> Iterator[str]:
    while True:
        answer = http.get(f"/v1/jobs/{job_id}/logs", query_string=query)
        if not answer.data:
            return
        yield answer.data.decode()
        query["offset"] = int(answer.headers["Spectrain-Next-Offset"])


def search(http: FlaskClient, job_id: str, **query: Any) -> dict[str, Any]:
    answer = http.get(f"/v1/jobs/{job_id}/logs", query_string=query)
    assert (answer.status_code, answer.content_type) == (200, "application/json"), answer.text
    assert answer.headers["Spectrain-Job-State"] == "queued"
    return dict(answer.get_json())


@pytest.mark.parametrize("first", [100, 64 << 10])
def test_the_last_lines_of_a_log_are_followed_from_its_end(
    http: FlaskClient, job_id: str, log: Path, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_LAST_BYTES", first)
    for count in (1, 3, 99, 100, 1000):
        assert text(http, job_id, tail=count) == "".join(LINES[-count:])
    answer = http.get(f"/v1/jobs/{job_id}/logs?tail=1")
    assert int(answer.headers["Spectrain-Next-Offset"]) == log.stat().st_size
    with log.open("a") as opened:
        opened.write("[2] half a")
    assert text(http, job_id, tail=2) == LINES[-1] + "[2] half a"
    assert text(http, job_id, tail=2, attempt=2) == "".join(LINES[-2:])


def test_of_last_lines_that_are_too_many_the_newest_are_sent(
    http: FlaskClient, job_id: str, log: Path
) -> None:
    assert text(http, job_id, tail=50, limit=40) == "".join(LINES[-2:])
    assert text(http, job_id, tail=50, limit=40, attempt=1) == "".join(LINES[58:60])


def test_the_lines_of_an_attempt_are_read_page_by_page(
    http: FlaskClient, job_id: str, log: Path
) -> None:
    for attempt, lines in ((1, LINES[:60]), (2, LINES[60:]), (3, [])):
        assert text(http, job_id, attempt=attempt) == "".join(lines)
        for limit in (1, 50, 200):
            assert "".join(pages(http, job_id, attempt=attempt, limit=limit)) == "".join(lines)
        assert text(http, job_id, attempt=attempt, tail=5) == "".join(lines[-5:])
    inside = len(LINES[0].encode()) + 2
    assert text(http, job_id, attempt=1, offset=inside) == "".join(LINES[2:60]), "whole lines"
    with log.open("a") as opened:
        opened.write("[2] half a")
    *_, last = pages(http, job_id, attempt=2)
    assert last.endswith(LINES[-1])


def test_a_text_is_found_with_its_offset_and_the_lines_around_it(
    http: FlaskClient, job_id: str, log: Path
) -> None:
    log.write_text("".join(LINES[:50]) + "[1] CUDA Error: ∿ÄÖ\n" + "".join(LINES[50:]))
    offset = len("".join(LINES[:50]).encode())
    shown = [line.rstrip("\n") for line in LINES]
    found = {
        "offset": offset, "text": "[1] CUDA Error: ∿ÄÖ",
        "before": shown[48:50], "after": shown[50:52],
    }  # fmt: skip
    for words in ("cuda error", "CUDA", "äö"):
        assert search(http, job_id, search=words) == {"matches": [found], "next_offset": None}
    assert log.read_bytes()[offset:].startswith(b"[1] CUDA")
    assert search(http, job_id, search="cuda", context=0)["matches"] == [
        found | {"before": [], "after": []}
    ]
    assert search(http, job_id, search="cuda", offset=offset + 1)["matches"] == []
    assert search(http, job_id, search="cuda", tail=51)["matches"] == [found]
    assert search(http, job_id, search="cuda", tail=50)["matches"] == []
    assert search(http, job_id, search="nothing of it")["matches"] == []
    assert search(http, job_id, search=".*")["matches"] == [], "a text, not a pattern"


def test_a_text_is_looked_for_in_one_attempt(http: FlaskClient, job_id: str, log: Path) -> None:
    found = search(http, job_id, search="line 6", attempt=2)["matches"]
    assert [match["text"] for match in found] == [line.rstrip("\n") for line in LINES[60:70]]
    assert found[0]["before"] == [], "those of the other attempt are not around it"
    assert [len(match["before"]) for match in found] == [0, 1, *[2] * 8]


def test_very_many_matches_come_in_pages(http: FlaskClient, job_id: str, log: Path) -> None:
    log.write_text("".join(f"[1] number {n}\n" for n in range(450)))
    matches, offset = [], 0
    while offset is not None:
        page = search(http, job_id, search="number", offset=offset)
        matches += page["matches"]
        offset = page["next_offset"]
    texts = [f"[1] number {n}" for n in range(450)]
    assert [match["text"] for match in matches] == texts
    assert [match["before"] for match in matches] == [texts[max(0, n - 2) : n] for n in range(450)]
    assert [match["after"] for match in matches] == [texts[n + 1 : n + 3] for n in range(450)]


def test_of_a_very_long_line_the_part_around_the_text_is_shown(
    http: FlaskClient, job_id: str, log: Path
) -> None:
    log.write_bytes(b"[1] " + b"a" * 100_000 + b"needle" + b"b" * 100_000 + b"\xff\n")
    (match,) = search(http, job_id, search="NEEDLE")["matches"]
    assert len(match["text"]) == 4096
    assert "aaneedlebb" in match["text"]


def test_a_job_without_a_log_has_no_last_lines_and_no_matches(
    http: FlaskClient, job_id: str
) -> None:
    assert text(http, job_id, tail=5) == text(http, job_id, attempt=1) == ""
    assert search(http, job_id, search="a") == {"matches": [], "next_offset": None}
    problem(http.get(f"/v1/jobs/{UNKNOWN}/logs?search=a"), 404)


@pytest.mark.parametrize("query", ["tail=0", "attempt=0", "search=", "context=21", "tail=x"])
def test_wrong_parameters_of_a_log_are_refused(http: FlaskClient, job_id: str, query: str) -> None:
    (error,) = problem(http.get(f"/v1/jobs/{job_id}/logs?{query}"), 422)["errors"]
    assert error["field"] == query.partition("=")[0]


def test_the_lines_of_a_rank_are_those_that_name_it(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    lines = [
        "[1] starting\n", "[1] [default0]:step 1\n", "[1] [default1]:step 1\n",
        "[1] [rank1]: Traceback\n", "[1] Rank 1: done\n", "[1] [default10]:step 1\n",
        "[1] rank1000 of all\n", "[2] [default1]:step 2\n",
    ]  # fmt: skip
    (run / "logs/output.log").write_text("".join(lines))
    ones = [lines[2], lines[3], lines[4], lines[7]]
    assert text(http, job_id, rank=1) == "".join(ones)
    assert "".join(pages(http, job_id, rank=1, limit=30)) == "".join(ones)
    assert text(http, job_id, rank=1, tail=1) == lines[7]
    assert text(http, job_id, rank=1, attempt=1, tail=1) == lines[4]
    assert text(http, job_id, rank=10) == lines[5]
    found = search(http, job_id, search="step", rank=0)["matches"]
    assert [one["text"] for one in found] == [lines[1].rstrip()]
    problem(http.get(f"/v1/jobs/{job_id}/logs?rank=-1"), 422)
