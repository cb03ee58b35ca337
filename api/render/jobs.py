"""Jobs as text: a table of many, and the story of one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from api.render.tables import number, table_of
from api.schemas import JobView
from jobs.model.record import Attempt, Job
from jobs.model.states import State
from machine.text import duration, plain
from monitoring.disk import file_size

_STYLES = {
    State.QUEUED: "yellow",
    State.RUNNING: "cyan",
    State.PAUSED: "magenta",
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.CANCELLED: "bright_black",
}
# What is said of steps that the program does not count with the library.
_READ_FROM = {
    "output": "the output",
    "trainer_state": "trainer_state.json",
    "metrics_csv": "metrics.csv",
    "tensorboard": "TensorBoard files",
}


def job_table(jobs: Iterable[Job], *, now: float | None = None) -> Table:
    """A table with one line per job; owners and pools where there are several to tell apart."""
    now, jobs = time.time() if now is None else now, list(jobs)
    extra: dict[str, Callable[[Job], str]] = {
        "owner": lambda job: job.owner or "",
        "pool": lambda job: job.spec.resources.pool,
    }
    told = {name: of for name, of in extra.items() if len({of(job) for job in jobs}) > 1}
    table = table_of("job", "state", "step", "left", "loss", "attempts", *told, "age",
                     first_to_go=("attempts", "left", "pool", "loss", "owner", "age"))  # fmt: skip
    table.columns[1].no_wrap = True
    for job in jobs:
        table.add_row(
            job.id,
            Text(job.state, style=_STYLES[job.state]),
            _steps(job),
            _left(job),
            number(job.progress.loss if job.progress else None),
            str(job.attempt),
            *(of(job) for of in told.values()),
            _age(now - job.submitted_at),
        )
    return table


def _age(seconds: float) -> str:
    """A time in its largest unit, as short as a table needs it."""
    return " ".join(duration(seconds).split()[:2])


def story(job: JobView, *, now: float | None = None) -> RenderableType:
    """A job in detail: state and reason, progress, attempts and the location of its files."""
    now = time.time() if now is None else now
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(job, now):
        facts.add_row(Text(name, style="bold"), value)
    parts: list[RenderableType] = [facts]
    if job.attempts:
        parts.append(_attempt_table(_attempts(job), now))
        parts.extend(_reasons(job.attempts))
    for attempt in job.attempts[-1:]:
        if attempt.log_tail and job.state is State.FAILED:
            parts.append(Text("last lines of output", style="bold"))
            parts.append(Padding(Text(plain("\n".join(attempt.log_tail))), (0, 0, 0, 2)))
    return Group(*parts)


def status(job: JobView, *, now: float | None = None) -> str:
    """How a job is, in one line."""
    now = time.time() if now is None else now
    match job.state:
        case State.QUEUED:
            return f"queued: {_waiting(job, now)}"
        case State.RUNNING:
            parts = (_progress(job), f"asked to {job.request}" if job.request else "")
            return ", ".join(["running", *filter(None, parts)])
    return _state(job).plain


def _facts(job: JobView, now: float) -> Iterable[tuple[str, RenderableType]]:
    yield "job", job.id
    yield "state", _state(job)
    if job.owner is not None:
        yield "owner", job.owner
    if (origin := job.forked_from) is not None:
        at = "" if origin.step is None else f" at step {origin.step}"
        yield "forked from", f"{origin.job}{at}"
    if job.state is State.QUEUED:
        yield "waiting", _waiting(job, now)
    if job.request is not None:
        yield "request", str(job.request)
    if job.progress is not None and job.progress.step is not None:
        yield "progress", _progress(job)
    if job.goodput is not None:
        yield "goodput", f"{job.goodput:.0%} of the time since the first start"
    if job.checkpoint_step is not None:
        yield "checkpoint", f"of step {job.checkpoint_step}"
    if job.spec.labels:
        yield "labels", ", ".join(f"{key}:{value}" for key, value in job.spec.labels.items())
    end = job.finished_at or now
    yield (
        "submitted",
        f"{_clock(job.submitted_at)}, {duration(end - job.submitted_at)} "
        + ("from submission to end" if job.finished_at else "ago"),
    )
    if job.attempts:
        yield "files", job.files.removeprefix("file://")


def _state(job: JobView) -> Text:
    text = Text(job.state, style=f"bold {_STYLES[job.state]}")
    obvious = job.reason is None or job.state is State.SUCCEEDED
    reason = plain(job.message) or ("" if obvious else str(job.reason))
    return text.append(f": {reason}", style="not bold default") if reason else text


def _waiting(job: JobView, now: float) -> str:
    pool = job.spec.resources.pool
    if job.not_before > now:
        return f"for its next attempt, in {duration(job.not_before - now)}"
    if job.wait is not None:
        return f"{plain(job.wait.reason)}{starts_in(job.wait.seconds)}"
    if not job.queue_position:
        return f"for a free worker of pool {pool}; next in the queue"
    ahead = "1 job is" if job.queue_position == 1 else f"{job.queue_position} jobs are"
    return f"for a free worker of pool {pool}; {ahead} ahead of it"


def starts_in(seconds: float | None) -> str:
    """The end of a sentence: when a job is likely to start; '' if it cannot be known."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    return "; starts now" if seconds < 1 else f"; starts in about {duration(seconds)}"


def _progress(job: JobView) -> str:
    progress = job.progress
    if progress is None:
        return ""
    steps = _steps(job)
    parts = [f"step {steps}"] if steps else []
    if progress.loss is not None:
        parts.append(f"loss {number(progress.loss)}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens per second")
    if left := _left(job):
        parts.append(f"{left} left")
    if progress.step_source is not None:
        parts.append(f"read from {_READ_FROM[progress.step_source]}")
    return ", ".join(parts)


def _left(job: Job) -> str:
    """The time to the last step of a running job; '' if it is not known."""
    seconds = job.progress.seconds_left if job.progress else None
    if seconds is None or not math.isfinite(seconds) or job.state is not State.RUNNING:
        return ""
    return duration(seconds)


def _attempts(job: JobView) -> list[Attempt]:
    """The attempts; the running one with the progress that it has reported so far."""
    current = job.attempts[-1]
    if current.ended_at is not None or job.progress is None:
        return job.attempts
    return [*job.attempts[:-1], job.so_far(current, job.progress)]


def _attempt_table(attempts: Iterable[Attempt], now: float) -> Table:
    """A table of at most 80 columns, without the reasons; steps only as far as they are known."""
    attempts = list(attempts)
    known = any(attempt.last_step is not None for attempt in attempts)
    counted = any(attempt.first_step is not None for attempt in attempts)
    steps = (*(["steps"] if known else []), *(["computed twice"] if counted else []))
    table = table_of("attempt", "resumed from", *steps, "took", "ended",
                     first_to_go=("computed twice", "resumed from", "took"))  # fmt: skip
    for attempt in attempts:
        running = attempt.ended_at is None
        twice = "" if attempt.first_step is None else number(attempt.steps_recomputed)
        span = _span(attempt.first_step, attempt.last_step)
        spans = (*([span] if known else []), *([twice] if counted else []))
        table.add_row(
            str(attempt.number),
            _origin(attempt),
            *spans,
            duration((now if running else attempt.ended_at or now) - attempt.started_at),
            "" if running else str(attempt.reason),
        )
    return table


def _reasons(attempts: Iterable[Attempt]) -> Iterable[RenderableType]:
    """Why each attempt ended, and how long its phases took."""
    for attempt in attempts:
        name = Text(f"attempt {attempt.number} on {attempt.worker}: ", style="bright_black")
        parts = (plain(attempt.message), _restored(attempt), _phases(attempt))
        yield name.append("; ".join(filter(None, parts)))


def _restored(attempt: Attempt) -> str:
    """The files that an attempt began with."""
    if not attempt.restored_files:
        return ""
    text = f"began with {_files(attempt.restored_files)}"
    if attempt.restored_bytes is not None:
        text += f", {file_size(attempt.restored_bytes)}"
    if attempt.restored_newest is None or attempt.restored_newest_at is None:
        return text
    age = duration(attempt.started_at - attempt.restored_newest_at)
    return f"{text}, the newest {plain(attempt.restored_newest)}, {age} old"


def _phases(attempt: Attempt) -> str:
    times = {
        "detected after": attempt.detect_seconds,
        "in the queue": attempt.queue_seconds,
        "fetched its code in": attempt.workspace_seconds,
        "restored in": attempt.restore_seconds,
        f"fetched {_inputs(attempt)} in": attempt.inputs_seconds,
        "had its environment in": attempt.environment_seconds,
        "set up in": attempt.setup_seconds,
        "first step after": attempt.first_step_seconds,
    }
    return ", ".join(f"{name} {value:.1f} s" for name, value in times.items() if value is not None)


def _inputs(attempt: Attempt) -> str:
    size = "" if attempt.inputs_bytes is None else f" ({file_size(attempt.inputs_bytes)})"
    return ("its input" if len(attempt.inputs) == 1 else f"{len(attempt.inputs)} inputs") + size


def _origin(attempt: Attempt) -> str:
    """What an attempt began with; '' if that is not known."""
    if attempt.resumed_from is not None:
        return f"step {attempt.resumed_from}"
    if attempt.first_step == 0 or attempt.restored_files == 0:
        return "the start"
    return _files(attempt.restored_files) if attempt.restored_files else ""


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _steps(job: Job) -> str:
    seen = job.progress or max(job.attempts, key=lambda one: one.last_step or -1, default=None)
    step = seen.last_step if isinstance(seen, Attempt) else seen.step if seen else None
    if step is None or seen is None:
        return ""
    total = (job.progress.total_steps if job.progress else None) or (
        job.spec.train.steps if job.spec.train else None
    )
    if job.spec.train is None:  # the program may number its steps from 0 or from 1
        return f"{step}/{total}" if total else str(step)
    # Steps are numbered from 0: step 99 of 100 is the last one.
    return f"{step + 1}/{total}" if total else str(step + 1)


def _span(first: int | None, last: int | None) -> str:
    if last is None:
        return ""
    return f"to {last}" if first is None else f"{first} to {last}"


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
