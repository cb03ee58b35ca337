"""When a drill interrupts, and what it says of it."""

from __future__ import annotations

import random
import signal
from dataclasses import replace
from itertools import pairwise

import pytest

from api.drill.comparison import Comparison
from api.drill.interruptions import Mark, Target, goes_on, is_due, mark, moments
from api.drill.report import Report, costs
from api.drill.run import Plan, drill
from api.schemas import JobView
from jobs.model.record import Attempt, Progress
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request, State


def job_at(
    step: int | None, *, attempt: int = 1, saved: int | None = None, resumed: int | None = None,
    state: State = State.RUNNING, request: Request | None = None,
) -> JobView:  # fmt: skip
    return JobView(
        id="drill-23456789", spec=JobSpec.model_validate({"name": "drill", "command": ["true"]}),
        state=state, sequence=1, attempt=attempt, priority=5, submitted_at=0.0, queued_at=0.0,
        request=request,
        progress=Progress(step=step, checkpoint_step=saved, resumed_from=resumed),
    )  # fmt: skip


def test_a_step_that_the_run_does_not_have_is_refused_before_it_has_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = JobSpec.model_validate({"name": "drill", "train": {"steps": 300}})
    Plan(spec, Target.CHILD, signal.SIGTERM, 2, 0, at=(0, 299)).check()
    code = drill(
        connect=None, url="http://127.0.0.1:1", data=None, spec=spec, target="worker",
        signal_name="TERM", times=1, at=[300], seed=0, device="cpu", as_json=False,
    )  # fmt: skip
    assert code == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "steps 0 to 299, not step 300" in told.err


@pytest.mark.parametrize("times", [1, 2, 3, 7])
def test_moments_are_spread_over_the_run_and_repeat_with_their_seed(times: int) -> None:
    for seed in range(50):
        drawn = moments(300, times, random.Random(seed))
        assert drawn == moments(300, times, random.Random(seed))
        assert len(drawn) == times
        assert drawn == sorted(drawn)
        assert all(45 <= step < 240 for step in drawn)
        parts = [int((step - 45 + 1e-9) * times // 195) for step in drawn]
        assert all(abs(part - number) <= 1 for number, part in enumerate(parts))
        assert all(a <= b for a, b in pairwise(drawn))
    assert len({tuple(moments(300, times, random.Random(seed))) for seed in range(50)}) > 10


def test_a_stop_comes_at_its_step_and_after_a_new_one() -> None:
    last = Mark(attempt=1, step=60, checkpoint=50)

    def due(job: JobView, moment: int = 40) -> bool:
        return is_due(job, moment, last, kill=False, ends_attempt=True)

    assert due(job_at(61, attempt=2, resumed=60))
    assert not due(job_at(61, attempt=1)), "the attempt that was stopped has not ended yet"
    assert not due(job_at(60, attempt=2)), "no new step"
    assert not due(job_at(None, attempt=2))
    assert not due(job_at(61, attempt=2), moment=62)
    assert not due(job_at(61, attempt=2, state=State.QUEUED))
    assert not due(job_at(61, attempt=2, request=Request.PREEMPT))


def test_a_kill_waits_for_a_checkpoint_that_the_attempt_itself_has_made() -> None:
    def due(job: JobView, last: Mark) -> bool:
        return is_due(job, 40, last, kill=True, ends_attempt=True)

    assert not due(job_at(61), Mark())
    assert due(job_at(61, saved=50), Mark())
    last = mark(job_at(61, saved=50))
    # The checkpoint of step 75 was there already when the process was killed, only not yet seen.
    assert not due(job_at(80, attempt=2, saved=75, resumed=75), last)
    assert due(job_at(101, attempt=2, saved=100, resumed=75), last)


def test_redis_is_interrupted_again_in_the_same_attempt() -> None:
    last = Mark(attempt=1, step=60)
    assert is_due(job_at(61), 40, last, kill=False, ends_attempt=False)
    assert not is_due(job_at(60), 40, last, kill=False, ends_attempt=False)


def test_a_job_goes_on_with_the_first_step_of_its_next_attempt() -> None:
    since = Mark(attempt=1, step=60)
    assert not goes_on(job_at(62), since, ends_attempt=True)
    assert not goes_on(job_at(None, attempt=2), since, ends_attempt=True)
    assert goes_on(job_at(51, attempt=2), since, ends_attempt=True)
    assert goes_on(job_at(61), since, ends_attempt=False)
    assert goes_on(job_at(60, state=State.SUCCEEDED), since, ends_attempt=False)
    assert not goes_on(job_at(60), since, ends_attempt=False)


def test_an_interruption_that_came_after_the_last_step_is_none() -> None:
    since = Mark(attempt=1, step=60)
    assert not goes_on(job_at(99, state=State.SUCCEEDED), since, ends_attempt=True)
    assert goes_on(job_at(99, attempt=2, state=State.SUCCEEDED), since, ends_attempt=True)


FIRST = Attempt(number=1, worker="w", started_at=0.0, reason=Reason.LOST, detect_seconds=2.0,
                queue_seconds=9.0, first_step_seconds=9.0, restore_seconds=9.0)  # fmt: skip
SECOND = FIRST.model_copy(
    update={"number": 2, "detect_seconds": 4.0, "queue_seconds": 0.25, "restore_seconds": 0.5,
            "first_step_seconds": 1.0, "steps_recomputed": 10}
)  # fmt: skip
THIRD = SECOND.model_copy(
    update={"number": 3, "reason": Reason.COMPLETED, "detect_seconds": None,
            "queue_seconds": 0.75, "steps_recomputed": 0}
)  # fmt: skip


def test_costs_are_of_the_interruptions_and_not_of_the_first_start() -> None:
    rows = {row.name: (row.p50, row.largest) for row in costs([FIRST, SECOND, THIRD], [5.0])}
    assert rows == {
        "detect_seconds": (3.0, 4.0),
        "queue_seconds": (0.5, 0.75),
        "restore_seconds": (0.5, 0.5),
        "first_step_seconds": (1.0, 1.0),
        "outage_seconds": (5.0, 5.0),
        "steps_recomputed": (5.0, 10.0),
    }
    assert {row.p50 for row in costs([FIRST], [])} == {None}


SAME = Comparison(rows=3, metrics=("loss",), step=9, tensors=4)
DONE = job_at(9, state=State.SUCCEEDED)


@pytest.mark.parametrize(
    ("untouched", "interrupted", "came", "found", "says", "proof"),
    [
        (DONE, DONE, 2, SAME, "Identical: the run was interrupted 2 times", ("identical", None)),
        (DONE, DONE, 1, SAME, "only 1 of 2 interruptions", ("inconclusive", None)),
        (DONE, job_at(3, state=State.FAILED), 2, SAME, "failed", ("inconclusive", None)),
        (job_at(3, state=State.CANCELLED), None, 0, Comparison(), "cancelled",
         ("inconclusive", None)),
        (DONE, DONE, 2, replace(SAME, curve=["a"], curve_step=5),
         "Different: the curves of the two runs differ, first at step 5.", ("differs", 5)),
        (DONE, DONE, 2, replace(SAME, weights=["a"]),
         "the weights of the two runs differ, first at step 9.", ("differs", 9)),
        (DONE, DONE, 2, replace(SAME, tensors=0, weights=["no checkpoint in common"]),
         "Inconclusive", ("inconclusive", None)),
        (DONE, DONE, 2, Comparison(), "nothing to compare", ("inconclusive", None)),
    ],
)  # fmt: skip
def test_a_drill_passes_only_when_all_of_it_is_so(
    untouched: JobView, interrupted: JobView | None, came: int, found: Comparison, says: str,
    proof: tuple[str, int | None],
) -> None:  # fmt: skip
    report = Report(
        "SIGTERM", "worker", 1, [3, 6], 2.0, untouched, interrupted, [1.0] * came, found
    )
    assert says in report.verdict
    assert report.passed == says.startswith("Identical")
    verdict = report.proof()
    assert (verdict.verdict, verdict.step, verdict.interruptions) == (*proof, came)
    assert verdict.jobs == [job.id for job in (untouched, interrupted) if job]
