"""Advice on a run's checkpoints: whether they fit into the grace period, how often to save."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from jobs.model.record import Job, Progress
from jobs.model.states import Reason
from worker.attempt.outcome import MARGIN_SECONDS

# The time between losses assumed for a job that has had none: a short run time says little.
_NO_LOSS_SECONDS = 86400.0
# Ends of an attempt that are no fault of the job's own.
_INTERRUPTIONS = frozenset({Reason.PREEMPTED, Reason.EVICTED, Reason.LOST})


@dataclass(frozen=True)
class Advice:
    """The save and upload times of a checkpoint that does not fit into the grace period."""

    save_seconds: float
    upload_seconds: float
    grace_seconds: float
    checkpoint_seconds: float  # between checkpoints, by the Young-Daly formula
    checkpoint_steps: int | None  # the same in steps; None if the pace is unknown

    def __str__(self) -> str:
        steps = f", {self.checkpoint_steps} steps" if self.checkpoint_steps is not None else ""
        return (
            f"a save took {self.save_seconds:.1f} s and its upload {self.upload_seconds:.1f} s, "
            f"more than the grace of {self.grace_seconds:g} s allows: a preempted attempt resumes "
            f"from its previous checkpoint; save every {self.checkpoint_seconds:.0f} s{steps}"
        )

    def data(self) -> dict[str, float | None]:
        """The fields, as data of the job's event."""
        return asdict(self)


def advise(
    job: Job,
    progress: Progress,
    *,
    save_seconds: float,
    upload_seconds: float,
    grace_seconds: float,
    run_seconds: float,
) -> Advice | None:
    """The advice for a run whose saves do not fit into the grace period; None if they do.

    `run_seconds` is the run time of all its attempts so far.
    """
    if save_seconds + upload_seconds + MARGIN_SECONDS <= grace_seconds:
        return None
    losses = sum(attempt.reason in _INTERRUPTIONS for attempt in job.attempts)
    between = run_seconds / losses if losses else max(run_seconds, _NO_LOSS_SECONDS)
    # With losses this frequent, back-to-back saves are the best possible.
    seconds = max(young_daly(save_seconds, between), save_seconds)
    steps = None
    if progress.step is not None and progress.first_step is not None and progress.step_seconds:
        pace = (progress.step - progress.first_step) / progress.step_seconds
        steps = max(1, round(seconds * pace))
    return Advice(save_seconds, upload_seconds, grace_seconds, seconds, steps)


def young_daly(cost: float, between_losses: float) -> float:
    """The optimal time between checkpoints in seconds, √(2 · cost · time between losses).

    J. W. Young, A first order approximation to the optimum checkpoint interval, 1974; J. T. Daly,
    A higher order estimate of the optimum checkpoint interval for restart dumps, 2006.
    """
    return math.sqrt(2 * cost * between_losses)
