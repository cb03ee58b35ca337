"""Decides what becomes of a job when an attempt ends, without I/O."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.model.record import Attempt, Job, Progress
from jobs.model.spec import Retry
from jobs.model.states import RULES, Budget, Reason, Request, Rule, State

MAX_BACKOFF_SECONDS = 600.0


@dataclass(frozen=True)
class Decision:
    """The state of a job after an attempt."""

    state: State
    message: str
    failures: int
    no_progress: int
    checkpoint_step: int | None
    delay_seconds: float = 0.0


def decide(job: Job, ended: Attempt, *, jitter: float = 0.0, retryable: bool = True) -> Decision:
    """The decision for `job`, whose current attempt ended as the receipt `ended`.

    `jitter` in [0, 1) stretches a backoff by up to a quarter, so that jobs which failed together
    do not return together. `retryable=False` marks an error that no retry can fix.

    The progress rule: an attempt that advanced the newest committed checkpoint resets both
    budgets. So a healthy job may be interrupted without limit, and a poisoned one may not.
    """
    if ended.reason is None:
        raise ValueError("the receipt of an ended attempt needs a reason")
    rule = RULES[ended.reason]
    before = -1 if job.checkpoint_step is None else job.checkpoint_step
    after = before if ended.checkpoint_step is None else max(before, ended.checkpoint_step)
    progressed = after > before
    failures = 0 if progressed else job.failures
    no_progress = 0 if progressed else job.no_progress
    retry = job.spec.retry
    (state, message), delay = _by_rule(rule, ended, retry), 0.0

    if rule.budget is Budget.FAILURES:
        failures += 1
        if (refusal := _refusal(job, ended, retryable)) is not None:
            state, message = State.FAILED, f"{ended.message} ({refusal})"
        elif failures > retry.max_failures:
            state = State.FAILED
            message = f"{ended.message} (failed {_times(failures)}, {retry.max_failures} retries)"
        elif state is State.QUEUED:
            delay = _backoff(retry.backoff_seconds, failures, jitter)
    elif rule.budget is Budget.PROGRESS and not progressed:
        no_progress += 1
        if no_progress >= retry.max_no_progress:
            state = State.FAILED
            message = f"no new checkpoint in {no_progress} attempts: {_history(job, ended)}"
        elif ended.reason is Reason.STORAGE:
            delay = _backoff(retry.backoff_seconds, no_progress, jitter)

    # A request that arrived while the attempt was ending counts, unless the job ended with it.
    if job.request is Request.CANCEL and state in {State.QUEUED, State.PAUSED}:
        state, delay, message = State.CANCELLED, 0.0, "cancelled on request"
    elif job.request is Request.PAUSE and state is State.QUEUED:
        state, delay = State.PAUSED, 0.0
    elif job.request is not Request.PAUSE and state is State.PAUSED:
        state, message = State.QUEUED, "resumed before the pause took effect"
    elif job.request is not None and state in {State.SUCCEEDED, State.FAILED}:
        late = f"the request to {job.request} came too late"
        message = f"{message} ({late})" if message else late

    return Decision(
        state=state,
        message=message,
        failures=failures,
        no_progress=no_progress,
        checkpoint_step=after if after >= 0 else None,
        delay_seconds=delay,
    )


def written(job: Job, ended: Attempt, decision: Decision) -> tuple[Attempt, dict[str, str]]:
    """The receipt to store, and the fields of the job's hash that change beside its state."""
    # Up to the last sign of life: the time until the loss was detected is no run time.
    heard = (ended.ended_at or ended.started_at) - (ended.detect_seconds or 0.0)
    fields = {
        "reason": ended.reason,
        "message": decision.message,
        "failures": decision.failures,
        "no_progress": decision.no_progress,
        "checkpoint_step": decision.checkpoint_step,
        "run_seconds": job.run_seconds + max(0.0, heard - ended.started_at),
    }
    receipt = ended.model_copy(update={"message": ended.message or decision.message})
    return receipt, {k: "" if v is None else str(v) for k, v in fields.items()}


def _by_rule(rule: Rule, ended: Attempt, retry: Retry) -> tuple[State, str]:
    """The next state of the job while its budgets last, and the message."""
    if ended.reason is not Reason.OUT_OF_MEMORY:
        return rule.then, ended.message
    if retry.out_of_memory:
        return State.QUEUED, ended.message
    return rule.then, f"{ended.message} (not retried: retry.out_of_memory is false)"


def _refusal(job: Job, ended: Attempt, retryable: bool) -> str | None:
    """Why a failure is not retried, whatever is left of the budget; None if it may be."""
    retry, code = job.spec.retry, ended.exit_code
    if not retryable:
        before = job.attempts[-2] if len(job.attempts) > 1 else None
        if before is not None and before.message == ended.message:
            return f"not retried: attempt {before.number} failed in the same way"
        return "not retried"
    if ended.reason is not Reason.ERROR or code is None:
        return None
    if code in (retry.not_on_exit_codes or ()):
        return f"not retried: retry.not_on_exit_codes has {code}"
    if retry.on_exit_codes is not None and code not in retry.on_exit_codes:
        return f"not retried: retry.on_exit_codes does not have {code}"
    return None


def lost_attempt(
    job: Job,
    at: float,
    silent_seconds: float,
    *,
    message: str = "",
    seen: Progress | None = None,
) -> Attempt:
    """The receipt of a running attempt whose worker no longer renews the lease.

    `seen` is its last progress, by default that of the last renewal.
    """
    current = job.current
    if current is None:
        raise ValueError(f"job {job.id} has no attempt that could be lost")
    silence = f"worker {current.worker} gave no sign of life for {silent_seconds:.0f} s"
    return job.so_far(current, seen or job.progress or Progress()).model_copy(
        update={
            "ended_at": at,
            "reason": Reason.LOST,
            "message": message or silence,
            "detect_seconds": silent_seconds,
        }
    )


def _backoff(first: float, times: int, jitter: float) -> float:
    """A delay that doubles each time, up to the larger of the ceiling and `first`, seconds."""
    seconds = first * 2.0 ** min(times - 1, 32) * (1 + jitter / 4)
    return min(seconds, max(MAX_BACKOFF_SECONDS, first))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _history(job: Job, ended: Attempt) -> str:
    recent = [*job.attempts[-job.spec.retry.max_no_progress : -1], ended]
    return "; ".join(f"attempt {a.number}: {a.message or a.reason}" for a in recent)
