"""Checks of a chaos run: each yields a sentence for every flaw that it finds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, get_args

from redis import Redis

from api.drill.comparison import compare
from bench.chaos.service import Training
from jobs.model.record import Attempt, Event, Job
from jobs.model.states import Reason, State
from jobs.store.keys import Keys, PoolIndex
from monitoring.paths import RunPaths

_MARK = re.compile(rb"\[(\d+)\] ")
_TIME = re.compile(rb"\[\d+\] --- (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC ")
# What a pool keeps when it has no work.
_LASTING = {"turns", "ranked:changed", "ranked:aging"}
_TEMPORARY = re.compile(r"^\.spectrain-tmp-|\.tmp$|\.corrupt$|\.next$")
# A guard whose worker has ended kills its training process at once, if the machine is not busy.
_ORPHAN_SECONDS = 3.0
_EVENTS_WHILE_RUNNING = {"requested", "changed", "grace_too_short", "not_saved"}


def job_flaws(job: Job) -> Iterator[str]:
    """Checks that the job succeeded exactly once, with a receipt for every attempt."""
    if job.state is not State.SUCCEEDED:
        yield f"{job.id} is {job.state}: {job.message or job.reason}"
    reasons = [attempt.reason for attempt in job.attempts]
    if reasons.count(Reason.COMPLETED) != 1 or reasons[-1:] != [Reason.COMPLETED]:
        yield f"{job.id} has attempts that ended as {', '.join(map(str, reasons))}"
    if [attempt.number for attempt in job.attempts] != list(range(1, job.attempt + 1)):
        yield f"{job.id} has {job.attempt} attempts, but {len(job.attempts)} receipts"
    for before, after in zip(job.attempts, job.attempts[1:], strict=False):
        if before.ended_at is None or after.started_at < before.ended_at:
            yield f"{job.id}: attempt {after.number} began before {before.number} had ended"


def history_flaws(job_id: str, events: Iterable[Event]) -> Iterator[str]:
    """Checks that the events are a possible history."""
    state, attempt, at = "", 0, 0.0
    for event in events:
        number = event.data.get("attempt")
        match state, event.type:
            case "", "submitted":
                state = "queued"
            case "queued", "started" if number == attempt + 1:
                state, attempt = "running", attempt + 1
            case "running", "requeued" if number == attempt:
                state = "queued"
            case "running", "succeeded" if number == attempt:
                state = "succeeded"
            case "running", kind if kind in _EVENTS_WHILE_RUNNING:
                pass
            case _:
                yield f"{job_id}: {event.type} {event.data} while {state} in attempt {attempt}"
        if event.at < at:
            yield f"{job_id}: {event.type} is earlier than the event before it"
        at = event.at
    if state != "succeeded":
        yield f"{job_id}: its history ends with {state or 'nothing'}"


def receipt_flaws(storage: Path, job: Job) -> Iterator[str]:
    """Checks that each attempt's receipt is in storage and agrees with the record."""
    for attempt in job.attempts:
        path = RunPaths(storage / job.id).attempt(attempt.number)
        try:
            found = Attempt.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            yield f"{job.id}: no receipt of attempt {attempt.number}: {error}"
            continue
        if (found.number, found.worker, found.reason) != (
            attempt.number, attempt.worker, attempt.reason,
        ):  # fmt: skip
            yield (
                f"{job.id}: the receipt of attempt {attempt.number} says {found.reason}, "
                f"the record says {attempt.reason}"
            )


def reference_flaws(storage: Path, job_id: str, reference: str, last_step: int) -> Iterator[str]:
    """Checks that curve and final weights are those of the undisturbed run."""
    found = compare(RunPaths(storage / reference), RunPaths(storage / job_id))
    if found.step != last_step:
        yield f"{job_id}: the newest common checkpoint is of step {found.step}, not {last_step}"
    for difference in (*found.curve[:2], *found.weights[:2]):
        yield f"{job_id}: {difference}"
    if not found.identical and not (found.curve or found.weights):
        yield f"{job_id}: there was nothing to compare"


def log_flaws(storage: Path, job: Job) -> Iterator[str]:
    """Checks that no overtaken attempt appended to the log or truncated the lines of a newer one.

    The first line of each attempt says that it starts, and no attempt writes after a newer one has.
    If an attempt truncated the first lines of another, those appear again after its own later ones.
    """
    newest, last_time = 0, b""
    for line in RunPaths(storage / job.id).output_log.read_bytes().splitlines():
        mark = _MARK.match(line)
        number = int(mark[1]) if mark else 0
        if number < newest:
            yield f"{job.id}: after attempt {newest} its log continues with {line[:80]!r}"
            return
        if number > newest and b" attempt %d starts " % number not in line:
            yield f"{job.id}: the log of attempt {number} begins with {line[:80]!r}"
        if time := _TIME.match(line):
            if time[1] < last_time:
                yield f"{job.id}: an earlier attempt wrote after {line[:80]!r}"
            last_time = time[1]
        newest = number
    if newest != job.attempt:
        yield f"{job.id}: its log ends with attempt {newest} of {job.attempt}"


def left_in_storage(storage: Path) -> list[str]:
    """Temporary files that should have been renamed or removed."""
    found = (path for path in storage.rglob("*") if _TEMPORARY.search(path.name))
    return sorted(path.relative_to(storage).as_posix() for path in found)


def left_below(directory: Path) -> list[str]:
    """Everything in a directory that should be empty, except torch's own cache."""
    found = (path.relative_to(directory) for path in directory.rglob("*"))
    return sorted(
        path.as_posix() for path in found if not path.parts[0].startswith("torchinductor")
    )


def left_in_redis(redis: Redis, prefix: str = "spectrain:") -> Iterator[str]:
    """Entries that stand for work to do or in progress.

    Except kombu's `unacked`: the message of a killed worker returns after an hour and wakes a
    worker for nothing.
    """
    client: Any = redis
    keys = Keys(prefix)
    sizes: dict[str, Callable[[str], int]] = {
        keys.leases: client.zcard,
        keys.outbox: client.zcard,
        keys.claims: client.hlen,
        **{keys.pool("default", index): client.zcard for index in get_args(PoolIndex)
           if index not in _LASTING},
        **{keys.of_owner("default", index, ""): client.zcard for index in ("queued", "running")},
        **{keys.jobs_in(s): client.zcard for s in State if s is not State.SUCCEEDED},
        keys.queue("default"): client.llen,
    }  # fmt: skip
    for key, size in sizes.items():
        if count := size(key):
            yield f"{count} in {key}"


class Writers:
    """Checks the training processes: one per attempt, and none without its worker."""

    def __init__(self) -> None:
        self._workers: dict[int, int] = {}  # of each training process, while it was visible
        self._alone: dict[int, float] = {}  # since when

    def flaws(self, live: Sequence[Training], workers: Set[int], now: float) -> Iterator[str]:
        """The flaws of the processes that exist at the time `now`."""
        seen: dict[tuple[str, str], int] = {}
        for one in live:
            if other := seen.get((one.job, one.attempt)):
                yield f"{one.job}: attempt {one.attempt} is run by {other} and {one.pid}"
            seen[one.job, one.attempt] = one.pid
            if one.worker is not None:
                self._workers[one.pid] = one.worker
        alone = {
            one.pid
            for one in live
            if not one.guard_stopped and self._workers.get(one.pid, -1) not in {-1, *workers}
        }
        self._alone = {pid: self._alone.get(pid, now) for pid in alone}
        for one in live:
            if now - self._alone.get(one.pid, now) > _ORPHAN_SECONDS:
                yield f"{one.job}: attempt {one.attempt} ({one.pid}) continues without its worker"


def needless_losses(jobs: Iterable[Job], struck: Set[int]) -> Iterator[str]:
    """Attempts that were found lost although their worker had not been struck."""
    for job in jobs:
        for attempt in job.attempts:
            if attempt.reason is Reason.LOST and int(attempt.worker.split("-")[-2]) not in struck:
                yield f"{job.id}: attempt {attempt.number} of {attempt.worker}: {attempt.message}"


def log_lines(path: Path, text: str) -> list[str]:
    """The lines of a file that contain `text`."""
    return [line for line in path.read_text(errors="replace").splitlines() if text in line]
