"""What the health check of a worker's container says."""

from __future__ import annotations

import pytest

from jobs.model.workers import Worker, WorkerState
from worker import healthcheck


def worker(name: str, state: WorkerState = WorkerState.IDLE, reason: str = "") -> Worker:
    return Worker(
        name=name, pool="default", host="box", gpus=[], state=state, reason=reason, since=1.0,
        started_at=1.0,
    )  # fmt: skip


def test_a_worker_is_well_while_it_idles_works_or_leaves() -> None:
    for state in WorkerState:
        if state is not WorkerState.UNHEALTHY:
            assert healthcheck.verdict([7], "box", [worker("box-7-ab12", state)]) == ""


def test_it_says_what_the_worker_says_of_itself_and_not_what_others_do() -> None:
    ill = worker("box-7-ab12", WorkerState.UNHEALTHY, "GPU 0: Xid 79")
    assert healthcheck.verdict([7], "box", [ill]) == "GPU 0: Xid 79"
    others = [worker("box-77-ab12"), worker("other-7-ab12"), worker("box-71-aa", ill.state, "ill")]
    assert "does not list" in healthcheck.verdict([7], "box", others)
    assert healthcheck.verdict([7], "box", [*others, worker("box-7-cd34")]) == ""


def test_no_process_is_no_worker_whatever_the_register_still_says() -> None:
    assert healthcheck.verdict([], "box", [worker("box-7-ab12")]) == "No worker process is running."


def test_an_outage_of_redis_makes_no_worker_ill(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPECTRAIN_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr(healthcheck, "running_workers", lambda: [7])
    assert healthcheck.main() == ""
    assert "Redis cannot be reached" in capsys.readouterr().out
    monkeypatch.setattr(healthcheck, "running_workers", list)
    assert healthcheck.main() == "No worker process is running."
