"""Decides which running job makes room for which waiting one, without I/O.

A waiting job evicts by its own priority: aging gives it an earlier turn, and evicts nobody. A
running job is protected by the aged priority with which it was claimed, or an eviction would undo
its aging.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.model.record import Job, Progress
from jobs.model.states import Request

# The largest loss assumed for a job without a checkpoint interval, seconds.
_NO_INTERVAL = 300.0


@dataclass(frozen=True)
class Waiting:
    """A job that could run now."""

    id: str
    priority: int
    gpus: int = 0


@dataclass(frozen=True)
class Running:
    """A job that has a slot; `evicted_for` is the job that it already makes room for.

    `priority` is the aged priority with which it was claimed.
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
        """Whether the slot is free or its job is about to leave."""
        return self.running is None or self.running.request is not None


@dataclass(frozen=True)
class Eviction:
    """A running attempt and the waiting job that it must make room for."""

    job_id: str
    attempt: int
    for_job: str


def evictions(
    waiting: Sequence[Waiting], slots: Sequence[Slot], min_seconds: float
) -> list[Eviction]:
    """The evictions that are due, for `waiting` in the order of the queue.

    A slot that is free, or whose job is leaving, goes to the job that it is promised to, else to
    the next job that fits. Each remaining job may evict one preemptible job of lower priority that
    has run for `min_seconds`: the one with the lowest priority, and among those the one that loses
    least.
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
    """The cost of stopping a running job now, in seconds, if it saves nothing.

    It is the work since the last committed checkpoint plus the time of the last restore. The work
    counts up to the checkpoint interval, so that a job does not gain protection by never saving.
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
