"""Which running job makes room for which waiting one: decided here, purely.

By real priority: what a job counts after waiting says whose turn it is, and evicts nobody. But a
job that has waited its turn keeps what it counted then, or an eviction would undo the aging.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.model.record import Job, Progress
from jobs.model.states import Request

# What a job that names no interval of its checkpoints counts as losing at most, seconds.
_NO_INTERVAL = 300.0


@dataclass(frozen=True)
class Waiting:
    """A job that could run now."""

    id: str
    priority: int
    gpus: int = 0


@dataclass(frozen=True)
class Running:
    """A job that has a slot; `evicted_for` is whom it makes room for already.

    `priority` is what it counted when its turn came, its own priority or more.
    """

    id: str
    attempt: int
    priority: int
    preemptible: bool = True
    run_seconds: float = 0.0
    loss_seconds: float = 0.0
    request: Request | None = None
    evicted_for: str | None = None


@dataclass(frozen=True)
class Slot:
    """A worker that takes jobs; `reserved_for` is the job that its next claim gets."""

    worker: str
    gpus: int = 0
    running: Running | None = None
    reserved_for: str | None = None

    @property
    def promised_to(self) -> str | None:
        """The job that will have the slot next."""
        if self.running is None:
            return self.reserved_for
        return self.running.evicted_for if self.running.request is Request.EVICT else None

    @property
    def comes_free(self) -> bool:
        """Whether somebody else will have the slot, now or in a moment."""
        return self.running is None or self.running.request is not None


@dataclass(frozen=True)
class Eviction:
    """An attempt that is to make room for a waiting job."""

    job_id: str
    attempt: int
    for_job: str


def evictions(
    waiting: Sequence[Waiting], slots: Sequence[Slot], min_seconds: float
) -> list[Eviction]:
    """The evictions that are due, for `waiting` in the order of turns.

    A slot that is free, or that somebody leaves already, serves the job it is promised to, else
    the next in turn that fits. Each job that is left may have the slot of one preemptible job of
    lower priority that has run for `min_seconds`: the one of the lowest priority, and then the
    one that loses least.
    """
    promised = {slot.promised_to for slot in slots if slot.comes_free}
    names = {job.id for job in waiting}
    left = [job for job in waiting if job.id not in promised]
    free = [slot for slot in slots if slot.comes_free and slot.promised_to not in names]
    for job in list(left):
        fits = [slot for slot in free if slot.gpus >= job.gpus]
        if fits:
            free.remove(min(fits, key=lambda slot: (slot.gpus, slot.worker)))
            left.remove(job)

    victims = {
        slot.running: slot.gpus
        for slot in slots
        if slot.running is not None
        and slot.running.request is None
        and slot.running.preemptible
        and slot.running.run_seconds >= min_seconds
    }
    found = []
    for job in sorted(left, key=lambda job: -job.priority):
        able = [v for v, gpus in victims.items() if v.priority < job.priority and gpus >= job.gpus]
        if able:
            victim = min(able, key=lambda v: (v.priority, v.loss_seconds, v.run_seconds, v.id))
            del victims[victim]
            found.append(Eviction(victim.id, victim.attempt, job.id))
    return found


def loss_seconds(job: Job, now: float) -> float:
    """What stopping a running job now costs, in seconds, if it saves nothing.

    The work since its last committed checkpoint, at most the interval of its checkpoints: one that
    commits none is not protected by that. And the restore, as long as it took the last time.
    """
    if job.current is None:
        return 0.0
    ran = max(0.0, now - job.current.started_at)
    seen = job.progress or Progress()
    work, pace = ran, None
    if seen.step is not None and seen.first_step is not None and seen.step >= seen.first_step:
        pace = ran / (seen.step - seen.first_step + 1)
        saved = -1 if seen.checkpoint_step is None else seen.checkpoint_step
        work = max(0, seen.step - max(saved, seen.first_step - 1)) * pace
    rule = job.spec.checkpoint
    intervals = []
    if rule.every_seconds is not None:
        intervals.append(rule.every_seconds)
    if rule.every_steps is not None and pace is not None:
        intervals.append(rule.every_steps * pace)
    restores = [a.restore_seconds for a in job.attempts] + [seen.restore_seconds]
    restore = next((seconds for seconds in reversed(restores) if seconds is not None), 0.0)
    return min(work, min(intervals, default=_NO_INTERVAL)) + restore
