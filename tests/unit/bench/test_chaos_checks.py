"""The checks of a chaos run find what they look for."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.chaos import checks
from bench.chaos.service import Training
from jobs.model.record import Attempt, Event, Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State

FIRST = Attempt(number=1, worker="a", started_at=1, ended_at=2, reason=Reason.LOST)
LAST = Attempt(number=2, worker="b", started_at=3, ended_at=4, reason=Reason.COMPLETED)
JOB = Job(
    id="j", spec=JobSpec(name="j", command=["true"]), state=State.SUCCEEDED, sequence=1, priority=5,
    attempt=2, submitted_at=0, queued_at=0, attempts=[FIRST, LAST],
)  # fmt: skip
HISTORY = [("submitted", None), ("started", 1), ("requeued", 1), ("started", 2), ("succeeded", 2)]


def events(*told: tuple[str, int | None]) -> list[Event]:
    return [
        Event(id=f"{at}-0", at=at, type=kind, data={} if number is None else {"attempt": number})
        for at, (kind, number) in enumerate(told)
    ]


def test_a_job_that_succeeded_once_is_well() -> None:
    assert not list(checks.job_flaws(JOB))


@pytest.mark.parametrize(
    "update",
    [
        {"state": State.FAILED},
        {"attempts": [FIRST.model_copy(update={"reason": Reason.COMPLETED}), LAST]},
        {"attempts": [LAST]},
        {"attempts": [FIRST, LAST.model_copy(update={"started_at": 1.5})]},
    ],
)
def test_a_job_that_ended_otherwise_is_not(update: dict[str, object]) -> None:
    assert list(checks.job_flaws(JOB.model_copy(update=update)))


def test_a_history_that_can_have_happened_has_no_flaw() -> None:
    assert not list(checks.history_flaws("j", events(*HISTORY)))
    asked = [*HISTORY[:2], ("requested", None), *HISTORY[2:]]
    assert not list(checks.history_flaws("j", events(*asked)))


@pytest.mark.parametrize(
    "told",
    [
        HISTORY[:-1],
        [*HISTORY, ("succeeded", 2)],
        [*HISTORY[:2], ("started", 2), *HISTORY[2:]],
        [*HISTORY[:3], ("started", 1), ("succeeded", 1)],
        HISTORY[1:],
        [],
    ],
)
def test_a_history_that_cannot_have_happened_has_one(told: list[tuple[str, int | None]]) -> None:
    assert list(checks.history_flaws("j", events(*told)))


def test_each_receipt_must_be_there_and_say_what_the_record_says(tmp_path: Path) -> None:
    for attempt in (FIRST, LAST):
        path = tmp_path / "j" / "attempts" / f"{attempt.number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(attempt.model_dump_json())
    assert not list(checks.receipt_flaws(tmp_path, JOB))
    path.write_text(LAST.model_copy(update={"reason": Reason.LOST}).model_dump_json())
    assert list(checks.receipt_flaws(tmp_path, JOB))
    path.unlink()
    assert list(checks.receipt_flaws(tmp_path, JOB))


ONE = "[1] --- 2026-11-23 07:12:09 UTC attempt 1 starts anew"
TWO = "[2] --- 2026-11-23 07:12:11 UTC attempt 2 starts anew"
LATE = "[1] --- 2026-11-23 07:12:12 UTC attempt 1 ended: completed"


@pytest.mark.parametrize(
    ("lines", "flaws"),
    [
        ([ONE, "[1] a", TWO, "[2] b"], 0),
        ([TWO, "[2] b"], 0),
        ([ONE, TWO, "[2] b", "[1] c"], 1),
        ([ONE, "[1] a", "[2] b"], 1),
        ([ONE, "not marked", TWO], 1),
        ([ONE, LATE, TWO], 1),
        ([ONE, "[1] a"], 1),
    ],
)
def test_an_overtaken_attempt_says_nothing_more(
    tmp_path: Path, lines: list[str], flaws: int
) -> None:
    log = tmp_path / "j" / "logs" / "output.log"
    log.parent.mkdir(parents=True)
    log.write_text("\n".join(lines))
    assert len(list(checks.log_flaws(tmp_path, JOB))) == flaws


def training(pid: int, attempt: str = "1", worker: int | None = 7, held: bool = False) -> Training:
    return Training("j", attempt, pid, worker, held)


def test_two_training_processes_of_one_attempt_are_found() -> None:
    assert not list(checks.Writers().flaws([training(10), training(11, "2")], {7}, now=0))
    assert list(checks.Writers().flaws([training(10), training(11)], {7}, now=0))


def test_a_training_process_that_outlives_its_worker_is_found() -> None:
    writers = checks.Writers()

    def flaws(now: float, workers: set[int], held: bool = False) -> list[str]:
        # Its fork server is gone, and with it the way up to the worker.
        return list(writers.flaws([training(10, worker=None, held=held)], workers, now))

    assert not list(writers.flaws([training(10)], {7}, now=0))
    assert not flaws(10, {7})
    assert not flaws(20, {8}, held=True)
    assert not flaws(30, {8})
    assert not flaws(32, {8})
    assert flaws(34, {8})


def test_a_loss_without_a_strike_is_found() -> None:
    lost = JOB.model_copy(
        update={"attempts": [FIRST.model_copy(update={"worker": "a-host-12-beef"}), LAST]}
    )
    assert not list(checks.needless_losses([lost], {12}))
    assert list(checks.needless_losses([lost], {13}))


def test_files_that_somebody_meant_to_rename_are_found(tmp_path: Path) -> None:
    run = tmp_path / "j" / "checkpoints"
    run.mkdir(parents=True)
    names = [".spectrain-tmp-0a", ".config.json.12.tmp", "checkpoint_step_5.pt.corrupt",
             "checkpoint_step_5.pt.json.next"]  # fmt: skip
    for name in (*names, "checkpoint_step_5.pt", "checkpoint_step_5.pt.json"):
        (run / name).touch()
    assert checks.left_in_storage(tmp_path) == sorted(f"j/checkpoints/{name}" for name in names)
    assert checks.left_below(tmp_path / "j") != []
    (tmp_path / "empty" / "torchinductor_me").mkdir(parents=True)
    assert checks.left_below(tmp_path / "empty") == []
