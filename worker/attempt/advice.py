"""What a run should know about its checkpoints: whether they fit into the grace, and how often."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from jobs.model.record import Job, Progress
from jobs.model.states import Reason
from worker.attempt.outcome import MARGIN_SECONDS

# Between the losses of a job that has had none yet: its run time says little while it is short.
_NO_LOSS_SECONDS = 86400.0
# What takes a job off its worker through no fault of its own.
_INTERRUPTIONS = frozenset({Reason.PREEMPTED, Reason.EVICTED, Reason.LOST})


@dataclass(frozen=True)
class Advice:
    """A save and its upload take longer than a worker that is told to stop has."""

    save_seconds: float
    upload_seconds: float
    grace_seconds: float
    checkpoint_seconds: float  # between checkpoints, by the rule of Young and Daly
    checkpoint_steps: int | None  # the same in steps, where their pace is known

    def __str__(self) -> str:
        steps = f", {self.checkpoint_steps} steps" if self.checkpoint_steps is not None else ""
        return (
            f"a save took {self.save_seconds:.1f} s and its upload {self.upload_seconds:.1f} s, "
            f"more than the grace of {self.grace_seconds:g} s leaves: a preemption goes back to "
            f"the checkpoint before; save every {self.checkpoint_seconds:.0f} s{steps}"
        )

    def data(self) -> dict[str, float | None]:
        """The same for the job's event."""
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
    """The advice for a run whose saves do not fit into the grace; None where they do.

    `run_seconds` is the run time of all its attempts so far.
    """
    if save_seconds + upload_seconds + MARGIN_SECONDS <= grace_seconds:
        return None
    losses = sum(attempt.reason in _INTERRUPTIONS for attempt in job.attempts)
    between = run_seconds / losses if losses else max(run_seconds, _NO_LOSS_SECONDS)
    # Where losses are as frequent as that, saves back to back are the best there is.
    seconds = max(young_daly(save_seconds, between), save_seconds)
    steps = None
    if progress.step is not None and progress.first_step is not None and progress.step_seconds > 0:
        pace = (progress.step - progress.first_step) / progress.step_seconds
        steps = max(1, round(seconds * pace))
    return Advice(save_seconds, upload_seconds, grace_seconds, seconds, steps)


def young_daly(cost: float, between_losses: float) -> float:
    """The time between checkpoints that loses least, √(2 · cost · time between losses), seconds.

    J. W. Young, A first order approximation to the optimum checkpoint interval, 1974; J. T. Daly,
    A higher order estimate of the optimum checkpoint interval for restart dumps, 2006.
    """
    return math.sqrt(2 * cost * between_losses)
