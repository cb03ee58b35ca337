"""What becomes of a job when an attempt ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.model.record import Attempt, Job, Progress
from jobs.model.rules import MAX_BACKOFF_SECONDS, decide, lost_attempt
from jobs.model.spec import JobSpec, Retry
from jobs.model.states import MOVES, RULES, Budget, Reason, Request, State


def job(**changes: object) -> Job:
    record = Job(
        id="a-1",
        spec=JobSpec(name="a", command=["true"]),
        state=State.RUNNING,
        sequence=1,
        attempt=1,
        priority=5,
        submitted_at=0.0,
        queued_at=0.0,
        attempts=[Attempt(number=1, worker="w", started_at=0.0)],
    )
    return record.model_copy(update=changes)


def ended(reason: Reason, **changes: object) -> Attempt:
    attempt = Attempt(number=1, worker="w", started_at=0.0, ended_at=1.0, reason=reason)
    return attempt.model_copy(update=changes)


steps = st.none() | st.integers(0, 1000)


@given(
    reason=st.sampled_from(Reason),
    request=st.none() | st.sampled_from(Request),
    failures=st.integers(0, 5),
    no_progress=st.integers(0, 10),
    before=steps,
    after=steps,
    retryable=st.booleans(),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_every_end_leads_to_a_legal_state_within_the_budgets(
    reason: Reason,
    request: Request | None,
    failures: int,
    no_progress: int,
    before: int | None,
    after: int | None,
    retryable: bool,
    jitter: float,
) -> None:
    record = job(
        request=request, failures=failures, no_progress=no_progress, checkpoint_step=before
    )
    decision = decide(
        record, ended(reason, checkpoint_step=after), jitter=jitter, retryable=retryable
    )
    assert decision.state in MOVES[State.RUNNING]
    assert 0 <= decision.delay_seconds <= MAX_BACKOFF_SECONDS * 1.25
    assert (decision.checkpoint_step or 0) >= (before or 0), "the newest checkpoint never goes back"
    if decision.state is State.QUEUED:
        assert request is not Request.CANCEL, "what was cancelled does not run again"
        if RULES[reason].budget is Budget.FAILURES:
            assert decision.failures <= record.spec.retry.max_failures
            assert retryable
        if RULES[reason].budget is Budget.PROGRESS:
            assert decision.no_progress < record.spec.retry.max_no_progress
    if RULES[reason].budget is Budget.NOTHING:
        assert decision.failures <= failures
        assert decision.no_progress <= no_progress


def test_endless_preemption_of_a_healthy_job_counts_against_nothing() -> None:
    record = job()
    for number in range(1, 200):
        decision = decide(record, ended(Reason.PREEMPTED, number=number))
        assert decision.state is State.QUEUED
        assert decision.delay_seconds == 0
        record = record.model_copy(
            update={"failures": decision.failures, "no_progress": decision.no_progress}
        )
    assert (record.failures, record.no_progress) == (0, 0)


def test_a_poison_checkpoint_ends_after_max_no_progress_lost_attempts() -> None:
    record = job(checkpoint_step=400)
    states = []
    while not states or states[-1] is State.QUEUED:
        decision = decide(record, ended(Reason.LOST, checkpoint_step=400, message="silent"))
        states.append(decision.state)
        record = record.model_copy(update={"no_progress": decision.no_progress})
    assert states == [State.QUEUED] * 4 + [State.FAILED]
    assert "no new checkpoint in 5 attempts" in decision.message


def test_progress_gives_both_budgets_back() -> None:
    record = job(checkpoint_step=400, failures=2, no_progress=4)
    decision = decide(record, ended(Reason.ERROR, checkpoint_step=500))
    assert (decision.state, decision.failures, decision.no_progress) == (State.QUEUED, 1, 0)


def test_back_off_doubles_up_to_a_ceiling() -> None:
    retry = Retry(max_failures=100, backoff_seconds=10)
    spec = JobSpec(name="a", command=["true"], retry=retry)
    delays = [
        decide(job(spec=spec, failures=n), ended(Reason.ERROR)).delay_seconds for n in range(10)
    ]
    assert delays[:4] == [10, 20, 40, 80]
    assert delays[-1] == MAX_BACKOFF_SECONDS
    late = decide(job(spec=spec, failures=9), ended(Reason.ERROR), jitter=0.99)
    assert late.delay_seconds == MAX_BACKOFF_SECONDS, "the jitter is below the ceiling too"
    patient = spec.model_copy(update={"retry": Retry(max_failures=100, backoff_seconds=3600)})
    assert decide(job(spec=patient), ended(Reason.ERROR)).delay_seconds == 3600


def test_an_error_that_no_further_attempt_can_mend_says_that_there_is_none() -> None:
    decision = decide(job(), ended(Reason.ERROR, message="no such file"), retryable=False)
    assert decision.state is State.FAILED
    assert decision.message == "no such file (not retried)"


def test_running_out_of_memory_is_tried_again_only_where_that_is_asked_for() -> None:
    plain = decide(job(), ended(Reason.OUT_OF_MEMORY, message="CUDA out of memory"))
    assert plain.state is State.FAILED
    assert plain.message == "CUDA out of memory (not retried: retry.out_of_memory is false)"
    spec = JobSpec(name="a", command=["true"], retry=Retry(out_of_memory=True, max_failures=1))
    states = [decide(job(spec=spec, failures=n), ended(Reason.OUT_OF_MEMORY)).state for n in (0, 1)]
    assert states == [State.QUEUED, State.FAILED]


def test_a_finished_run_outruns_a_cancel() -> None:
    decision = decide(job(request=Request.CANCEL), ended(Reason.COMPLETED))
    assert decision.state is State.SUCCEEDED


@pytest.mark.parametrize(
    ("earlier", "published", "first", "last", "expected"),
    [
        ([437], None, 401, 600, 37),
        ([437], None, 438, 600, 0),
        ([437], None, 0, 600, 438),
        ([437], None, 0, 100, 101),
        ([437, 300], None, 401, 600, 37),
        ([], None, 0, 600, 0),
        ([437], None, None, None, None),
        # A worker that was killed had published more than it had told.
        ([437], 450, 401, 600, 50),
        ([437], 420, 401, 600, 37),
        ([], 450, 401, 600, 50),
    ],
)
def test_steps_computed_twice_are_counted(
    earlier: list[int],
    published: int | None,
    first: int | None,
    last: int | None,
    expected: int | None,
) -> None:
    attempts = [
        Attempt(number=n, worker="w", started_at=0.0, last_step=step)
        for n, step in enumerate(earlier, start=1)
    ]
    current = Attempt(number=9, worker="w", started_at=0.0)
    seen = Progress(first_step=first, step=last, steps_before=published)
    assert job(attempts=attempts).so_far(current, seen).steps_recomputed == expected


def test_a_lost_attempt_keeps_what_was_last_heard_of_it() -> None:
    progress = Progress(step=437, first_step=301, resumed_from=300, checkpoint_step=400)
    earlier = Attempt(number=1, worker="v", started_at=0.0, last_step=320)
    current = Attempt(number=2, worker="w", started_at=5.0)
    receipt = lost_attempt(job(progress=progress, attempts=[earlier, current]), 30.0, 16.0)
    assert receipt.reason is Reason.LOST
    assert (receipt.first_step, receipt.last_step, receipt.checkpoint_step) == (301, 437, 400)
    assert receipt.steps_recomputed == 20
    assert "worker w gave no sign of life for 16 s" in receipt.message
    assert receipt.detect_seconds == 16


def test_goodput_counts_each_step_once_and_the_whole_time_since_the_first_start() -> None:
    attempts = [
        # Steps 0 to 99 in 99 s after the first of them, then lost: 80 to 99 are done again.
        Attempt(number=1, worker="v", started_at=0.0, ended_at=110.0, first_step=0, last_step=99,
                step_seconds=100.0),
        Attempt(number=2, worker="w", started_at=120.0, ended_at=180.0, first_step=80,
                last_step=119, step_seconds=40.0, steps_recomputed=20),
    ]  # fmt: skip
    done = job(state=State.SUCCEEDED, attempts=attempts, started_at=0.0, finished_at=200.0)
    assert done.goodput_at(1e9) == (100 + 20) / 200
    assert job().goodput_at(5.0) is None  # not started


def test_goodput_of_a_running_job_counts_what_was_last_heard_of_it() -> None:
    progress = Progress(step=49, first_step=0, step_seconds=50.0)
    assert job(progress=progress, started_at=0.0).goodput_at(100.0) == 0.5


def test_a_pause_that_was_accepted_outlives_the_attempt_it_was_asked_of() -> None:
    for reason in (Reason.LOST, Reason.ERROR, Reason.PREEMPTED):
        assert decide(job(request=Request.PAUSE), ended(reason)).state is State.PAUSED


def test_a_store_that_is_away_is_not_asked_again_at_once() -> None:
    decision = decide(job(no_progress=1), ended(Reason.STORAGE))
    assert (decision.state, decision.delay_seconds) == (State.QUEUED, 20)


def test_a_job_without_steps_has_no_goodput() -> None:
    ended = Attempt(number=1, worker="w", started_at=0.0, ended_at=9.0, reason=Reason.COMPLETED)
    for record in (
        job(started_at=0.0),
        job(started_at=0.0, progress=Progress()),
        job(state=State.SUCCEEDED, started_at=0.0, finished_at=9.0, attempts=[ended]),
    ):
        assert record.goodput_at(100.0) is None
    first = Progress(step=0, first_step=0, step_seconds=0.0)
    assert job(started_at=0.0, progress=first).goodput_at(100.0) is None, "no time is known yet"


@pytest.mark.parametrize(
    ("rule", "code", "then"),
    [
        ({"on_exit_codes": [75, 139]}, 75, State.QUEUED),
        ({"on_exit_codes": [75, 139]}, 139, State.QUEUED),
        ({"on_exit_codes": [75, 139]}, 1, State.FAILED),
        ({"not_on_exit_codes": [2]}, 2, State.FAILED),
        ({"not_on_exit_codes": [2]}, 1, State.QUEUED),
        ({"on_exit_codes": [75], "not_on_exit_codes": [2]}, 1, State.FAILED),
        ({"on_exit_codes": [75]}, None, State.QUEUED),  # a failure of the worker
        ({}, 2, State.QUEUED),
    ],
)
def test_exit_codes_decide_whether_a_failure_is_retried(
    rule: dict[str, list[int]], code: int | None, then: State
) -> None:
    spec = JobSpec(name="a", command=["true"], retry=Retry(**rule))  # type: ignore[arg-type]
    decision = decide(job(spec=spec), ended(Reason.ERROR, exit_code=code, message="no"))
    assert decision.state is then
    if then is State.FAILED:
        assert "not retried: retry." in decision.message
        assert str(code) in decision.message


@pytest.mark.parametrize(
    "reason", [Reason.PREEMPTED, Reason.EVICTED, Reason.LOST, Reason.STORAGE, Reason.STALLED]
)
def test_exit_codes_are_for_failures_of_the_program(reason: Reason) -> None:
    spec = JobSpec(name="a", command=["true"], retry=Retry(on_exit_codes=[75]))
    assert decide(job(spec=spec), ended(reason, exit_code=143)).state is State.QUEUED


def test_the_same_failure_says_which_attempt_it_repeats() -> None:
    first = ended(Reason.ERROR, message="no such file")
    record = job(attempts=[first, Attempt(number=2, worker="w", started_at=0.0)], failures=1)
    decision = decide(record, ended(Reason.ERROR, number=2, message="no such file"),
                      retryable=False)  # fmt: skip
    assert decision.message == "no such file (not retried: attempt 1 failed in the same way)"
