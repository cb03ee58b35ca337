"""Decides when an attempt starts from an older moment of its run than the newest."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

from jobs.model.record import Attempt, Job
from jobs.model.states import Reason
from monitoring.storage.moments import Entry, Moment
from worker.failures.repeats import SHORT_SECONDS

# Somebody ended the program. What it resumed from makes it raise, abort or crash.
_KILLED = {128 + number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)}
# A file at least this large, in parts of the largest one before, may be a checkpoint.
_SIZABLE = 0.5


def moment_to_avoid(job: Job, moments: Callable[[], Sequence[Moment]]) -> str | None:
    """The moment that the attempt before this one started from, if it may be why that failed.

    Its program failed before it made a step: what it resumed from may be half a checkpoint, or one
    that cannot be loaded. None if nothing speaks against the newest moment, or somebody has had the
    job retried since. `moments` reads those of the run.
    """
    ended = job.attempts[:-1]
    if not ended or job.failures == 0:
        return None
    last = ended[-1]
    if last.reason is not Reason.ERROR or last.last_step is not None or last.exit_code in _KILLED:
        return None
    if any(attempt.last_step is not None for attempt in ended):
        return last.moment
    seconds = (last.ended_at or last.started_at) - last.started_at
    if last.moment is None or seconds >= SHORT_SECONDS or has_saved(last, moments()):
        return None
    return last.moment


def has_saved(attempt: Attempt, moments: Sequence[Moment]) -> bool:
    """Whether the program of an attempt stored something as large as a checkpoint of its run.

    Then it has loaded what it resumed from, although it counts no steps. A program that cannot
    leaves logs and settings at most.
    """
    own = [moment for moment in moments if moment.attempt == attempt.number]
    before = [moment for moment in moments if moment.name <= (attempt.moment or "")]
    if not own or not before:
        return bool(own)
    known = {content for moment in before for content in moment.contents}
    newest = max(own, key=lambda moment: moment.name)
    new = (entry.size for entry in _whole(newest) if entry.content not in known)
    usual = max((entry.size for moment in before for entry in _whole(moment)), default=0)
    return max(new, default=0) > _SIZABLE * usual


def _whole(moment: Moment) -> list[Entry]:
    """The files of a moment but for those that are only appended to."""
    return [e for e in moment.entries.values() if e.kind == "file" and not e.grows]
