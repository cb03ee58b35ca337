"""Whether checkpoints fit into the grace, and how often to save."""

from __future__ import annotations

import pytest

from jobs.model.record import Attempt, Job, Progress
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State
from worker.attempt.advice import advise, young_daly

JOB = Job(
    id="a-1", spec=JobSpec(name="a", command=["true"]), state=State.RUNNING, sequence=1,
    priority=5, submitted_at=0.0, queued_at=0.0,
    attempts=[
        Attempt(number=1, worker="w", started_at=0.0, reason=Reason.PREEMPTED),
        Attempt(number=2, worker="w", started_at=0.0, reason=Reason.ERROR),
        Attempt(number=3, worker="w", started_at=0.0, reason=Reason.LOST),
        Attempt(number=4, worker="w", started_at=0.0),
    ],
)  # fmt: skip
PROGRESS = Progress(first_step=100, step=300, step_seconds=400.0)  # two seconds a step


def test_saves_that_fit_into_the_grace_need_no_advice() -> None:
    assert advise(JOB, PROGRESS, save_seconds=20, upload_seconds=38, grace_seconds=60,
                  run_seconds=7200) is None  # fmt: skip


def test_saves_that_do_not_fit_are_told_with_their_numbers_and_the_best_interval() -> None:
    advice = advise(JOB, PROGRESS, save_seconds=50, upload_seconds=40, grace_seconds=60,
                    run_seconds=7200)  # fmt: skip
    assert advice is not None
    # Two interruptions in two hours: √(2 · 50 · 3600).
    assert advice.checkpoint_seconds == pytest.approx(600)
    assert advice.checkpoint_steps == 300
    assert "took 50.0 s and its upload 40.0 s" in str(advice)
    assert "grace of 60 s" in str(advice)


@pytest.mark.parametrize(
    ("hours", "seconds"), [(0.01, 2939), (24, 2939), (96, 5879)], ids=["new", "a day", "four days"]
)
def test_a_job_that_was_never_interrupted_counts_a_loss_a_day_and_fewer_when_it_has_run_longer(
    hours: float, seconds: float
) -> None:
    calm = JOB.model_copy(update={"attempts": JOB.attempts[-1:]})
    advice = advise(calm, Progress(), save_seconds=50, upload_seconds=40, grace_seconds=60,
                    run_seconds=hours * 3600)  # fmt: skip
    assert advice is not None
    assert advice.checkpoint_seconds == pytest.approx(seconds, abs=1)
    assert advice.checkpoint_steps is None


def test_no_job_is_told_to_save_more_often_than_a_save_takes() -> None:
    advice = advise(JOB, PROGRESS, save_seconds=50, upload_seconds=40, grace_seconds=60,
                    run_seconds=20)  # fmt: skip
    assert advice is not None
    assert advice.checkpoint_seconds == 50


def test_the_interval_loses_less_than_any_other() -> None:
    """The cost of saving, and of half an interval at each loss, as a share of the time."""

    def lost(interval: float) -> float:
        return 30 / interval + interval / 2 / 3600

    best = young_daly(30, 3600)
    assert all(lost(best) <= lost(best * factor) for factor in (0.5, 0.9, 1.1, 2.0))
