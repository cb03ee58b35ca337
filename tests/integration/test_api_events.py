"""The HTTP calls for what happened: to one job, and to all."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from flask.testing import FlaskClient

from jobs.model.record import Event
from jobs.model.states import Reason
from jobs.store.jobs import JobStore
from tests.integration.http_calls import problem, run_to, submitted


def feed(http: FlaskClient, **query: Any) -> dict[str, Any]:
    answer = http.get("/v1/events", query_string=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


@pytest.mark.parametrize(
    "change", [{"labels": {"a": "b"}}, {"limits": {"run_seconds": 60.0}}, {"priority": 7}]
)
def test_the_events_of_a_job_that_was_changed_can_be_read(
    http: FlaskClient, job_id: str, change: dict[str, Any]
) -> None:
    assert http.patch(f"/v1/jobs/{job_id}", json=change).status_code == 200
    answer = http.get(f"/v1/jobs/{job_id}/events")
    assert answer.status_code == 200, answer.text
    last = answer.get_json()["events"][-1]
    assert (last["type"], last["data"]) == ("changed", change)
    assert feed(http)["events"][-1]["data"] == change


def test_an_event_holds_whatever_json_its_writer_gave(
    http: FlaskClient, store: JobStore, job_id: str
) -> None:
    """Also one that an older or a newer version wrote."""
    assert store.claim("default", "w") is not None
    given = {"deep": {"list": [1, None, {"x": True}]}, "not": math.nan, "text": "∿"}
    store.note(job_id, 1, "strange", given)
    last = json.loads(http.get(f"/v1/jobs/{job_id}/events").data, parse_constant=pytest.fail)
    assert last["events"][-1]["data"] == given | {"not": "NaN"}
    assert Event.model_validate(last["events"][-1]).data["deep"] == given["deep"]


def test_the_events_of_all_jobs_come_in_the_order_in_which_they_happened(
    http: FlaskClient, store: JobStore, job_id: str
) -> None:
    other = submitted(http)["id"]
    run_to(store, Reason.COMPLETED)
    assert http.delete(f"/v1/jobs/{job_id}").status_code == 204
    events = feed(http)["events"]
    assert [(event["job"], event["type"]) for event in events] == [
        (job_id, "submitted"), (other, "submitted"), (job_id, "started"), (job_id, "succeeded"),
        (job_id, "deleted"),
    ]  # fmt: skip
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    own = http.get(f"/v1/jobs/{other}/events").get_json()["events"][0]
    assert {**events[1], "id": own["id"]} == {**own, "job": other}


def test_the_events_of_all_jobs_are_read_in_pages_and_followed(http: FlaskClient) -> None:
    assert feed(http) == {"events": [], "after": None}
    ids = [submitted(http)["id"] for _ in range(5)]
    newest = feed(http, limit=2)
    assert [event["job"] for event in newest["events"]] == ids[3:]
    assert feed(http, after=newest["after"]) == {"events": [], "after": newest["after"]}
    ids.append(submitted(http)["id"])
    new = feed(http, after=newest["after"])
    assert [event["job"] for event in new["events"]] == ids[5:]
    oldest = feed(http, after="0-0", limit=3)
    assert [event["job"] for event in oldest["events"]] == ids[:3]
    assert [e["job"] for e in feed(http, after=oldest["after"])["events"]] == ids[3:]
    problem(http.get("/v1/events?after=x"), 422)


def test_the_service_keeps_about_ten_thousand_events_of_all_jobs(
    store: JobStore, job_id: str
) -> None:
    assert store.claim("default", "w") is not None
    with store.redis.pipeline(transaction=False) as pipe:
        for _ in range(10_400):
            pipe.xadd(store.keys.all_events, {"job": "a", "at": 1.0, "type": "b", "data": "{}"})
        pipe.execute()
    for number in range(100):
        store.note(job_id, 1, "counted", {"number": number})
        assert 10_000 <= store.redis.xlen(store.keys.all_events) < 10_200


def test_a_job_from_before_the_events_of_all_jobs_is_read_as_ever(
    http: FlaskClient, store: JobStore, job_id: str
) -> None:
    store.redis.delete(store.keys.all_events)
    assert [e["type"] for e in http.get(f"/v1/jobs/{job_id}/events").get_json()["events"]] == [
        "submitted"
    ]
    assert feed(http)["events"] == []
    http.post(f"/v1/jobs/{job_id}/cancel")
    assert [event["type"] for event in feed(http)["events"]] == ["cancelled"]
