"""The interruptions of a drill: at which steps, by which signal, to which process."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import psutil

from api.client.client import Client
from api.local.service import LocalService
from api.schemas import JobView
from jobs.model.states import State

# Interruptions take place between these shares of a run: early or late ones prove little.
_FIRST, _LAST = 0.15, 0.8
_GUARD = "worker.launch.guard"


class Target(StrEnum):
    """The process that is interrupted."""

    CHILD = "child"
    WORKER = "worker"
    REDIS = "redis"


class OutOfReachError(Exception):
    """The interruption is not possible at this service; the message says why."""


def moments(steps: int, times: int, dice: random.Random) -> list[int]:
    """Random steps at which to interrupt a run of `steps`: one in each of `times` equal parts."""
    start, width = steps * _FIRST, steps * (_LAST - _FIRST) / times
    return [int(start + width * (part + dice.random())) for part in range(times)]


@dataclass(frozen=True)
class Mark:
    """The progress of a job when it was interrupted."""

    attempt: int = 0
    step: int = -1
    checkpoint: int = -1


def mark(job: JobView) -> Mark:
    """The progress of the job."""
    progress = job.progress
    step = progress.step if progress else None
    saved = progress.checkpoint_step if progress else None
    known = [s for s in (saved, job.checkpoint_step) if s is not None]
    return Mark(job.attempt, -1 if step is None else step, max(known, default=-1))


def is_due(job: JobView, moment: int, last: Mark, *, kill: bool, ends_attempt: bool) -> bool:
    """Whether the job has reached `moment` and has made progress since the `last` interruption.

    A kill waits for a new checkpoint, because the service fails a job that is lost repeatedly
    without one; a stop waits for one new step.
    """
    now, progress = mark(job), job.progress
    if job.state is not State.RUNNING or job.request or progress is None or now.step < moment:
        return False
    if ends_attempt and now.attempt <= last.attempt:
        return False
    if not kill:
        return now.step > last.step
    from_storage = -1 if progress.resumed_from is None else progress.resumed_from
    return now.checkpoint > max(last.checkpoint, from_storage)


def goes_on(job: JobView, since: Mark, *, ends_attempt: bool) -> bool:
    """Whether the job has completed a step after the interruption, or has succeeded."""
    done = job.state is State.SUCCEEDED
    if ends_attempt:  # an attempt that completed first was not interrupted
        return job.attempt > since.attempt and (done or mark(job).step >= 0)
    return done or mark(job).step > since.step


class Striker(Protocol):
    """Interrupts a job; `title` describes how."""

    ends_attempt: bool
    title: str

    def strike(self, job: JobView) -> str | None:
        """Interrupts the job; returns a description, or None if there is no target right now."""


class Preemption:
    """Preempts through the API, which is all that is possible at a remote service."""

    ends_attempt = True
    title = "preempt"

    def __init__(self, client: Client, target: Target, number: signal.Signals) -> None:
        if target is Target.REDIS or number is signal.SIGKILL:
            raise OutOfReachError(
                f"{number.name} to the {target} cannot be sent to a running service: its processes "
                "are out of reach, and its API can only preempt (--signal TERM --target worker). "
                "Without --url, the drill starts a service of its own and can send it."
            )
        self._client = client

    def strike(self, job: JobView) -> str | None:
        """Preempts the job."""
        self._client.preempt(job.id)
        return "preempted through the API"


class Signal:
    """Sends a signal to a process of the drill's own service."""

    def __init__(self, service: LocalService, target: Target, number: signal.Signals) -> None:
        self._service = service
        self._target = target
        self._number = number
        self.ends_attempt = target is not Target.REDIS
        self.title = f"{number.name} to the {target}"

    def strike(self, job: JobView) -> str | None:
        """Sends the signal."""
        try:
            process = self._find()
            if process is None:
                return None
            process.send_signal(self._number)  # psutil checks that the id was not reused
            if self._target is Target.REDIS:
                _wait_for_end(process)
        except psutil.Error:
            return None
        return f"{self._number.name} to the {_NAMES[self._target]} (process {process.pid})"

    def _find(self) -> psutil.Process | None:
        if self._target is Target.REDIS:
            return next((psutil.Process(pid) for pid in self._service.redis), None)
        for worker in map(psutil.Process, self._service.workers):
            child = _training_process(worker)
            if child is not None:
                return worker if self._target is Target.WORKER else child
        return None


_NAMES = {Target.CHILD: "training process", Target.WORKER: "worker", Target.REDIS: "Redis server"}


def _training_process(worker: psutil.Process) -> psutil.Process | None:
    """The training process: the child of the guard among the descendants of the worker."""
    for process in worker.children(recursive=True):
        if process.status() != psutil.STATUS_ZOMBIE and _GUARD in process.cmdline():
            for child in process.children():
                return child
    return None


def _wait_for_end(process: psutil.Process) -> None:
    """Returns when this child process has ended; leaves its exit code to be collected."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
