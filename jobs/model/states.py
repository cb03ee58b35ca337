"""The states of a job, the legal moves between them, and the rules for each end of an attempt.

State and reason are two things: an attempt ends for one of twelve reasons, and the table `RULES`
gives the next state of the job. The Lua scripts get `MOVES` and `FINAL` and refuse other moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """State of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended; only a retry changes it."""
        return self in FINAL


MOVES: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED}),
    State.RUNNING: frozenset(
        {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.QUEUED, State.PAUSED}
    ),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset({State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
}
FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class Request(StrEnum):
    """Request to a running job, weakest first; the reaper evicts, users make the others."""

    EVICT = "evict"
    PREEMPT = "preempt"
    PAUSE = "pause"
    CANCEL = "cancel"


class Reason(StrEnum):
    """Why an attempt ended."""

    COMPLETED = "completed"
    PREEMPTED = "preempted"
    EVICTED = "evicted"
    PAUSED = "paused"
    LOST = "lost"
    ERROR = "error"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    DIVERGED = "diverged"
    STORAGE = "storage"
    CANCELLED = "cancelled"


class Budget(StrEnum):
    """Budget that the end of an attempt counts against."""

    NOTHING = "nothing"
    FAILURES = "failures"
    PROGRESS = "progress"


@dataclass(frozen=True)
class Rule:
    """The next state of the job: `then`, or failed when the budget is used up."""

    then: State
    budget: Budget = Budget.NOTHING


RULES: Mapping[Reason, Rule] = {
    Reason.COMPLETED: Rule(State.SUCCEEDED),
    Reason.PREEMPTED: Rule(State.QUEUED),
    Reason.EVICTED: Rule(State.QUEUED),
    Reason.PAUSED: Rule(State.PAUSED),
    Reason.LOST: Rule(State.QUEUED, Budget.PROGRESS),
    Reason.ERROR: Rule(State.QUEUED, Budget.FAILURES),
    Reason.OUT_OF_MEMORY: Rule(State.FAILED, Budget.FAILURES),
    Reason.TIMEOUT: Rule(State.FAILED),
    Reason.STALLED: Rule(State.QUEUED, Budget.FAILURES),
    Reason.DIVERGED: Rule(State.FAILED),
    Reason.STORAGE: Rule(State.QUEUED, Budget.PROGRESS),
    Reason.CANCELLED: Rule(State.CANCELLED),
}
