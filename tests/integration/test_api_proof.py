"""The verdict of a drill: recorded with its job, shown with it, and not lost with Redis."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient

from jobs.settings import Settings
from jobs.store.jobs import JobStore
from tests.integration.http_calls import UNKNOWN, problem

DIFFERS: dict[str, Any] = {
    "verdict": "differs",
    "step": 140,
    "message": "Different: the curves of the two runs differ, first at step 140.",
    "interruptions": 3,
    "jobs": ["wave-23456789", "wave-23456788"],
}


def test_the_last_verdict_of_a_job_is_shown_with_it(
    http: FlaskClient, job_id: str, store: JobStore
) -> None:
    path = f"/v1/jobs/{job_id}"
    assert http.get(path).get_json()["proof"] is None
    before = store.now()
    proof = http.put(f"{path}/proof", json=DIFFERS).get_json()["proof"]
    assert {name: proof[name] for name in DIFFERS} == DIFFERS
    assert before <= proof["at"] <= store.now()
    http.put(f"{path}/proof", json={"verdict": "identical", "interruptions": 5})
    proof = http.get(path).get_json()["proof"]
    assert (proof["verdict"], proof["step"], proof["interruptions"]) == ("identical", None, 5)
    (listed,) = http.get("/v1/jobs").get_json()["jobs"]
    assert listed["proof"] == proof
    events = http.get(f"{path}/events").get_json()["events"]
    assert [event["data"]["verdict"] for event in events if event["type"] == "proved"] == [
        "differs", "identical",
    ]  # fmt: skip


def test_a_verdict_that_is_none_is_refused(http: FlaskClient, job_id: str) -> None:
    path = f"/v1/jobs/{job_id}/proof"
    problem(http.put(path, json={**DIFFERS, "verdict": "certainly"}), 422)
    problem(http.put(path, json={**DIFFERS, "at": 1.0}), 422)
    problem(http.put(path, json={**DIFFERS, "message": "x" * 2001}), 422)
    problem(http.put(f"/v1/jobs/{UNKNOWN}/proof", json=DIFFERS), 404)


def test_a_verdict_is_copied_to_storage_with_its_record(
    http: FlaskClient, job_id: str, store: JobStore, settings: Settings
) -> None:
    store.redis.delete(store.keys.dirty)
    http.put(f"/v1/jobs/{job_id}/proof", json=DIFFERS)
    assert [job for job, _ in store.records.dirty(10)] == [job_id]
