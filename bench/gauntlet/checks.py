"""Checks of what became of an interrupted program; each yields a sentence for every flaw."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.schemas import JobView
from bench.gauntlet.ledger import Event
from bench.gauntlet.strikes import Struck
from jobs.model.states import State
from monitoring.storage.base import Storage, is_service
from monitoring.storage.moments import Moments
from monitoring.storage.run_files import is_services


@dataclass(frozen=True)
class Resume:
    """From where an attempt went on, and what that cost."""

    attempt: int
    step: int
    lost_steps: int  # made before the strike, and made again
    lost_seconds: float  # age, at the strike, of the oldest checkpoint that was lost


def resumes(
    events: Sequence[Event], struck: Sequence[Struck], settles: float
) -> Iterator[tuple[Resume, str]]:
    """The resumes after strikes, each with a sentence if it is a flaw, else with nothing."""
    whole: list[Event] = []  # the checkpoints that the program has, as far as it can know
    completed: set[int] = set()
    reached = 0
    strike_at = 0.0
    ended_at: dict[int, float] = {}
    for one in struck:
        ended_at[one.attempt] = one.at
    last_attempt = 0
    for event in events:
        if event.event == "saved":
            whole.append(event)
            completed.add(event.step)
        if event.event in {"saved", "step"}:
            reached = max(reached, event.step)
        if event.event != "resumed":
            continue
        if last_attempt:
            # Of attempts that were struck before they resumed, only the first strike counts.
            strike_at = ended_at.get(last_attempt, event.at)
            floor = max((one.step for one in whole if one.at <= strike_at - settles), default=0)
            lost = [one.at for one in whole if one.step > event.step]
            age = strike_at - min(lost) if lost else 0.0
            found = Resume(event.attempt, event.step, max(0, reached - event.step), age)
            yield found, _flaw(found, floor, completed, settles)
        # What the program has from now on: what it resumed from, long whole.
        whole = [Event(0.0, event.attempt, "saved", event.step, {})]
        reached = event.step
        last_attempt = event.attempt


def _flaw(found: Resume, floor: int, completed: set[int], settles: float) -> str:
    if found.step and found.step not in completed:
        return f"attempt {found.attempt} resumed from step {found.step}, which was never complete"
    if found.step < floor:
        return (
            f"attempt {found.attempt} resumed from step {found.step}, although step {floor} was "
            f"whole more than {settles:g} s before the strike"
        )
    return ""


def stop_flaws(events: Sequence[Event]) -> Iterator[str]:
    """Checks that a program that saved when it was asked to stop goes on exactly from there."""
    stopped: Event | None = None
    for event in events:
        if event.event == "stopped":
            stopped = event
        if event.event == "resumed" and stopped is not None and event.attempt > stopped.attempt:
            if event.step != stopped.step:
                yield f"it stopped in order at step {stopped.step}, and resumed from {event.step}"
            stopped = None


def job_flaws(job: JobView, struck: Sequence[Struck]) -> Iterator[str]:
    """Checks that the job succeeded, and that no attempt but the struck ones failed."""
    if job.state != State.SUCCEEDED:
        yield f"the job {job.state}: {job.message or job.reason}"
    hit = {one.attempt for one in struck}
    for attempt in job.attempts:
        if attempt.number not in hit and attempt.reason != "completed":
            yield (
                f"attempt {attempt.number}, which was not struck, ended as {attempt.reason}: "
                f"{attempt.message}"
            )


def state_flaws(digest: str | None, twin: str | None) -> Iterator[str]:
    """Checks that the training ended as if nothing had been."""
    if digest is None or twin is None:
        yield "the program never came to its end"
    elif digest != twin:
        yield f"its final state {digest[:8]} is not that of its undisturbed twin, {twin[:8]}"


def of_the_program(there: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """An inventory without what the service puts there: the job, its code's origin, receipts."""
    return {p: found for p, found in there.items() if p != "attempts" and not is_services(p)}


def moment_flaws(storage: Storage, run: str, there: Mapping[str, list[Any]]) -> Iterator[str]:
    """Checks the newest moment in storage against the program's inventory of its run."""
    moment = Moments(storage, run).newest()
    if moment is None:
        yield "storage has no moment of the run"
        return
    for path in sorted(moment.entries.keys() | there.keys()):
        entry, found = moment.entries.get(path), there.get(path)
        if entry is None or found is None:
            yield f"{path} is in {'storage' if entry else 'the run'} only"
        elif entry.kind != found[0]:
            yield f"{path} is a {entry.kind} in storage and a {found[0]} in the run"
        elif entry.kind == "link" and entry.target != found[1]:
            yield f"{path} links to {entry.target} in storage and to {found[1]} in the run"
        elif entry.kind == "directory" and entry.mode != found[1]:
            yield f"{path} has the mode {entry.mode:o} in storage and {found[1]:o} in the run"
        elif entry.kind == "file" and not entry.grows:
            kept = entry.size, entry.mode, entry.modified_ns
            if kept != tuple(found[2:]):
                yield f"{path} has {kept} in storage and {tuple(found[2:])} in the run"


def browsing_flaws(storage: Storage, run: str, there: Mapping[str, list[Any]]) -> Iterator[str]:
    """Checks that a person who looks into storage finds the files, and nothing more."""
    files = {path for path, found in there.items() if found[0] == "file"}
    seen = {
        path
        for file in storage.list(run)
        if not is_service(file.key) and not is_services(path := file.key.removeprefix(f"{run}/"))
    }
    for path in sorted(files ^ seen):
        yield f"{path} lies in {'storage' if path in seen else 'the run'} only"


def fetched_flaws(directory: Path, there: Mapping[str, list[Any]]) -> Iterator[str]:
    """Checks what `spectrain fetch` gives against the program's inventory of its run.

    It makes no link that leads out of the directory.
    """
    files = {
        path: found[1]
        for path, found in there.items()
        if found[0] == "file" or (found[0] == "link" and _stays_inside(path, found[1]))
    }
    fetched = {
        name: str(path.readlink())
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if (path.is_file() or path.is_symlink())
        and not is_services(name := path.relative_to(directory).as_posix())
    }
    for path in sorted(files.keys() | fetched.keys()):
        if files.get(path) != fetched.get(path):
            how = "differs" if path in files and path in fetched else "is not in both"
            yield f"{path}, as fetched, {how}"


def _stays_inside(path: str, target: str) -> bool:
    return not os.path.normpath(Path(path).parent / target).startswith(("..", "/"))
