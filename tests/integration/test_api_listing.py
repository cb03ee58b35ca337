"""Pages of jobs: short, made once for all who poll, and never older than the last change."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from api.server import listing
from bench.web.load import fill
from jobs.model.record import Origin, Progress
from jobs.model.states import Reason, Request
from jobs.store import recent
from jobs.store.jobs import JobStore
from tests.integration.http_calls import submitted


def test_a_long_message_is_cut_in_a_list_and_whole_in_the_job(
    http: FlaskClient, store: JobStore
) -> None:
    job = submitted(http, retry={"max_failures": 0})["id"]
    claimed = store.claim("default", "w")
    assert claimed is not None
    assert claimed.current is not None
    ended = claimed.current.model_copy(
        update={
            "reason": Reason.ERROR, "ended_at": store.now(), "message": "x" * 16_000,
            "log_tail": ["y" * 1000] * 50,
        }
    )  # fmt: skip
    store.finish(job, ended)
    answer = http.get("/v1/jobs")
    assert len(answer.data) < 10_000
    (shown,) = answer.get_json()["jobs"]
    assert len(shown["message"]) == len(shown["attempts"][0]["message"]) == listing.MESSAGE_CHARS
    assert shown["attempts"][0]["log_tail"] == []
    whole = http.get(f"/v1/jobs/{job}").get_json()
    assert len(whole["message"]) > 16_000
    assert len(whole["attempts"][0]["log_tail"]) == 50


def test_a_change_shows_in_the_list_at_once_and_progress_within_a_moment(
    http: FlaskClient, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submitted(http)["id"]
    assert [one["state"] for one in http.get("/v1/jobs").get_json()["jobs"]] == ["queued"]
    claimed = store.claim("default", "w")
    assert claimed is not None
    assert [one["state"] for one in http.get("/v1/jobs").get_json()["jobs"]] == ["running"]
    store.renew(job, 1, Progress(step=7))
    monkeypatch.setattr(listing, "_GOOD_SECONDS", 0.0)
    monkeypatch.setattr(recent, "_GOOD_SECONDS", 0.0)
    assert http.get("/v1/jobs").get_json()["jobs"][0]["progress"]["step"] == 7
    other = submitted(http)["id"]
    assert [one["id"] for one in http.get("/v1/jobs").get_json()["jobs"]] == [other, job]


def test_the_forks_of_a_job_are_found_behind_many_others(
    http: FlaskClient, store: JobStore
) -> None:
    source = submitted(http)["id"]
    spec = store.get(source).spec
    fork = store.submit(spec, forked_from=Origin(job=source, step=7)).id
    store.submit(spec, forked_from=Origin(job=fork, step=8))
    for _ in range(210):
        store.submit(spec)
    found = http.get(f"/v1/jobs?forked_from={source}").get_json()["jobs"]
    assert [one["id"] for one in found] == [fork]


def test_three_old_jobs_are_found_behind_a_hundred_thousand(
    http: FlaskClient, store: JobStore
) -> None:
    labels = {"team": "Wellen ∿", "run": "a.b"}
    wanted = [submitted(http, name="rare", labels=labels)["id"] for _ in range(3)][::-1]
    fill(store, submitted(http)["id"], 100_000)
    for query in ({"name": "rare"}, {"label": ["team:Wellen ∿", "run:a.b"]}):
        found, pages, cursor = [], 0, None
        while pages == 0 or cursor:
            given = query | ({"cursor": cursor} if cursor else {})
            page = http.get("/v1/jobs", query_string=given).get_json()
            found += [job["id"] for job in page["jobs"]]
            cursor, pages = page["cursor"], pages + 1
        assert found == wanted
        assert pages <= 6
    one = http.get("/v1/jobs?name=wave&limit=2").get_json()
    assert len(one["jobs"]) == 2
    assert one["cursor"] == str(one["jobs"][1]["sequence"])


@pytest.mark.parametrize("most_read", [1, 100])
def test_a_page_of_a_filtered_list_ends_where_the_next_begins(
    http: FlaskClient, monkeypatch: pytest.MonkeyPatch, most_read: int
) -> None:
    monkeypatch.setattr(listing, "_AT_ONCE", 4)
    monkeypatch.setattr(listing, "MAX_SCANNED", 8)
    monkeypatch.setattr(listing, "_MOST_READ", most_read)
    ids = [submitted(http, name="ab"[n % 2])["id"] for n in range(22)][::-1]
    for limit in (1, 2, 3, 50):
        found, cursor, pages = [], None, 0
        while pages == 0 or cursor:
            query = {"name": "a", "limit": limit} | ({"cursor": cursor} if cursor else {})
            page = http.get("/v1/jobs", query_string=query).get_json()
            assert len(page["jobs"]) <= limit
            found += [job["id"] for job in page["jobs"]]
            cursor, pages = page["cursor"], pages + 1
        assert found == ids[1::2], limit


def test_who_has_the_answer_does_not_get_it_again(http: FlaskClient) -> None:
    job = submitted(http)["id"]
    for path in ("/v1/jobs", f"/v1/jobs/{job}/events", "/v1/pools", "/v1/workers", "/v1/events"):
        answer = http.get(path)
        again = http.get(path, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b""), path
        assert again.headers["ETag"] == answer.headers["ETag"]
        assert answer.cache_control.no_cache, "a browser would not ask again"
    before = http.get("/v1/jobs").headers["ETag"]
    submitted(http)
    after = http.get("/v1/jobs", headers={"If-None-Match": before})
    assert (after.status_code, len(after.get_json()["jobs"])) == (200, 2)


def test_pages_of_the_same_list_join_without_a_gap(http: FlaskClient) -> None:
    ids = [submitted(http)["id"] for _ in range(7)][::-1]
    found, cursor = [], None
    while True:
        query = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = http.get("/v1/jobs", query_string=query).get_json()
        found += [job["id"] for job in page["jobs"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert found == ids
    page = http.get("/v1/jobs", query_string={"limit": "7"}).get_json()
    assert page["cursor"] is None


def test_a_list_is_that_of_the_redis_that_is_there(http: FlaskClient, store: JobStore) -> None:
    submitted(http)
    http.get("/v1/jobs")
    store.redis.flushall()
    assert http.get("/v1/jobs").get_json()["jobs"] == []
    job = submitted(http)["id"]
    assert [one["id"] for one in http.get("/v1/jobs").get_json()["jobs"]] == [job]
    store.request(job, Request.CANCEL)
    assert http.get("/v1/jobs?state=cancelled").get_json()["jobs"][0]["state"] == "cancelled"
    assert http.get("/v1/jobs?state=queued").get_json()["jobs"] == []
    store.delete(job)
    assert http.get("/v1/jobs").get_json()["jobs"] == []
