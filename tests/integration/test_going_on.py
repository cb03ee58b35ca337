"""What a further attempt resumes from, and what its job records of earlier ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.model.record import Job
from jobs.model.rules import lost_attempt
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.checkpoints import commit
from monitoring.storage.base import Fence
from tests.integration.one_worker import Bench, python
from worker.attempt.supervisor import supervise
from worker.launch.fork_client import ForkServerClient

Wait = Callable[..., Any]

SAVING = """
import os, time, torch
from monitoring import CheckpointManager, MetricsLogger, preemption
root = os.environ["SPECTRAIN_RUN_DIR"]
manager, logger = CheckpointManager(root, save_interval=10), MetricsLogger(root + "/logs", 1)
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters())
checkpoint = manager.load_latest_checkpoint() if LOADS else None
start = checkpoint["step"] + 1 if checkpoint else 0
for step in range(start, int(os.environ.get("STEPS", "30"))):
    if preemption.stop_requested():
        manager.save_checkpoint(step - 1, model, optimizer, [], {})
        raise SystemExit(143)
    logger.log_metrics(step, {"loss": 1.0})
    if manager.should_checkpoint(step):
        manager.save_checkpoint(step, model, optimizer, [], {})
    print(step, flush=True)
    time.sleep(0.02)
    if step == 15 and os.environ["SPECTRAIN_ATTEMPT"] == "1" and "DIES" in os.environ:
        os.kill(os.getpid(), 9)
    while step == 15 and os.environ["SPECTRAIN_ATTEMPT"] == "1" and not preemption.stop_requested():
        time.sleep(0.01)
"""


Saving = Callable[..., JobSpec]


@pytest.fixture
def bench(settings: Settings, store: JobStore, warm: ForkServerClient) -> Iterator[Bench]:
    """A worker with a fork server, since each program imports torch."""
    bench = Bench(settings.model_copy(update={"grace_seconds": 4}), store, warm.start)
    yield bench
    bench.service.messenger.close()


@pytest.fixture
def saving(tmp_path: Path) -> Saving:
    """A program that saves every ten steps, and resumes from its checkpoint or does not."""

    def spec(*, loads: bool, **fields: Any) -> JobSpec:
        script = tmp_path / "saving.py"
        script.write_text(SAVING.replace("LOADS", str(loads)))
        return python("", command=["python", str(script)], **fields)

    return spec


def preempted_once(bench: Bench, spec: JobSpec, wait_until: Wait) -> Job:
    """The job after its first attempt was preempted at step 15 and its second has ended."""
    job = bench.claim(spec)
    thread = bench.begin(job)
    wait_until(lambda: "[1] 15\n" in bench.output(job), what="some steps")
    bench.store.request(job.id, Request.PREEMPT)
    thread.join(30)
    again = bench.store.claim("default", "w")
    assert again is not None
    supervise(bench.service, again)
    return bench.store.get(job.id)


def test_a_receipt_says_what_each_attempt_waited_for_and_did(
    bench: Bench, saving: Saving, wait_until: Wait
) -> None:
    job = preempted_once(bench, saving(loads=True), wait_until)
    assert job.state is State.SUCCEEDED
    first, second = job.attempts
    assert (first.first_step, first.last_step, first.checkpoint_step) == (0, 15, 15)
    assert (second.resumed_from, second.first_step, second.last_step) == (15, 16, 29)
    assert second.resumed_checksum is not None
    assert first.steps_recomputed == second.steps_recomputed == 0
    for attempt in job.attempts:
        assert attempt.queue_seconds is not None
        assert attempt.restore_seconds is not None
        assert attempt.first_step_seconds is not None
        assert 0 <= attempt.queue_seconds < 60
        assert 0 <= attempt.restore_seconds <= attempt.first_step_seconds
        assert attempt.step_seconds >= 0.02 * ((attempt.last_step or 0) - (attempt.first_step or 0))
        assert attempt.uploaded_bytes > bench.files(job).checkpoint(10).stat().st_size
        kept = json.loads(bench.files(job).attempt(attempt.number).read_text())
        assert kept == attempt.model_dump(mode="json")
    useful = first.step_seconds + second.step_seconds
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.goodput_at(0) == pytest.approx(useful / (job.finished_at - job.started_at))


def test_a_worker_that_was_killed_after_its_receipt_leaves_none_that_differs_from_the_record(
    bench: Bench, tmp_path: Path
) -> None:
    job = bench.claim(python(""))
    lost = lost_attempt(job, at=bench.store.now(), silent_seconds=3)
    early = tmp_path / "1.json"
    early.write_text(lost.model_copy(update={"reason": Reason.COMPLETED}).model_dump_json())
    bench.storage.put(f"{job.id}/attempts/1.json", early, Fence(job.id, 1))
    bench.store.finish(job.id, lost)
    again = bench.store.claim("default", "w")
    assert again is not None
    supervise(bench.service, again)
    kept = [json.loads(bench.files(job).attempt(n).read_text())["reason"] for n in (1, 2)]
    assert kept == [a.reason for a in bench.store.get(job.id).attempts] == ["lost", "completed"]


def test_saves_that_do_not_fit_into_the_grace_are_told_in_numbers(
    bench: Bench, saving: Saving
) -> None:
    bench = Bench(
        bench.settings.model_copy(update={"grace_seconds": 0.001}), bench.store, bench.service.start
    )
    spec = saving(loads=True, env={"STEPS": "15"})
    job = bench.run(spec)
    (event,) = [e for e in bench.store.events(job.id) if e.type == "grace_too_short"]
    assert event.data["grace_seconds"] == 0.001
    assert float(event.data["save_seconds"] or 0) > 0
    assert "a save took" in bench.output(job)
    bench.service.messenger.close()


@pytest.mark.parametrize("steps", [30, 2000], ids=["it ends before it is stopped", "it is stopped"])
def test_a_program_that_forgets_its_checkpoint_is_told_so_and_spoils_no_file(
    bench: Bench, saving: Saving, wait_until: Wait, steps: int
) -> None:
    job = preempted_once(bench, saving(loads=False, env={"STEPS": str(steps)}), wait_until)
    assert (job.state, job.reason) == (State.FAILED, Reason.ERROR)
    assert "began at step 0 although it had a checkpoint" in job.message
    assert job.checkpoint_step == 15
    run = bench.files(job)
    assert {record.step for record, _ in commit.committed(run.checkpoints)} == {10, 15}
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(16)), "one curve, the one it had"
    assert "[2] 0\n" in bench.output(job)
    receipts = [json.loads(run.attempt(number).read_text()) for number in (1, 2)]
    assert [receipt["reason"] for receipt in receipts] == ["preempted", "error"]


def test_a_program_may_begin_anew_where_the_specification_says_so(
    bench: Bench, saving: Saving, wait_until: Wait
) -> None:
    spec = saving(loads=False, restart="from_scratch", env={"STEPS": "30"})
    job = preempted_once(bench, spec, wait_until)
    assert job.state is State.SUCCEEDED
    assert (job.attempts[-1].first_step, job.attempts[-1].steps_recomputed) == (0, 16)


def test_a_program_that_never_rewinds_has_one_curve_all_the_same(
    bench: Bench, saving: Saving
) -> None:
    """Killed after step 15, and it had saved after step 10."""
    assert "rewind" not in SAVING
    job = bench.run(saving(loads=True, env={"DIES": "1"}))
    again = bench.store.claim("default", "w")
    assert again is not None
    supervise(bench.service, again)

    job = bench.store.get(job.id)
    assert [attempt.reason for attempt in job.attempts] == [Reason.ERROR, Reason.COMPLETED]
    run = bench.files(job)
    rows, moved, resumes = (
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (run.metrics, run.superseded_metrics, run.resumes)
    )
    assert [row["step"] for row in rows] == list(range(30))
    assert [row["step"] for row in moved] == list(range(11, 16))
    assert [(note["step"], note["attempt"]) for note in resumes] == [(10, 2)]
    second = job.attempts[1]
    assert (second.steps_before, second.first_step, second.steps_recomputed) == (15, 11, 5)
