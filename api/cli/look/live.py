"""Follows a job until it ends: one line that changes on a terminal, a line for each news else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from api.client.client import Client
from api.render import console
from api.render.curves import sparkline
from api.render.jobs import status
from api.schemas import JobView
from jobs.model.states import State

POLL_SECONDS = 1.0
# In a pipe, progress alone is news no more often than this.
_NEWS_SECONDS = 30.0
_CURVE = 30  # characters
_LOSSES = 120
_LOSS = "loss"


class Losses:
    """The losses of a job so far, as a curve that grows while the service reports more."""

    def __init__(self, before: Iterable[float]) -> None:
        self._seen = deque(before, maxlen=_LOSSES)
        self._step: int | None = None

    def add(self, job: JobView) -> None:
        """Takes the loss of a job, unless its step is known."""
        seen = job.progress
        if seen is not None and seen.loss is not None and seen.step != self._step:
            self._step = seen.step
            self._seen.append(seen.loss)

    def __str__(self) -> str:
        return sparkline(list(self._seen), _CURVE) if len(self._seen) > 1 else ""


Picture = Callable[[JobView, Losses], RenderableType]


def until_it_ends(
    client: Client,
    job_id: str,
    *,
    stderr: bool,
    shown: Picture | None = None,
) -> JobView:
    """The job in its final state; shows meanwhile how it is, on standard error or output."""
    try:
        screen = console(stderr=stderr)
        if screen.is_terminal:
            return _on_a_terminal(client, job_id, screen, shown or _line, is_passing=stderr)
        return _in_lines(client, job_id, stderr=stderr)
    except KeyboardInterrupt:
        click.echo(f"\n{job_id} goes on; `spectrain cancel {job_id}` ends it.", err=True)
        raise


def _on_a_terminal(
    client: Client, job_id: str, screen: Console, picture: Picture, *, is_passing: bool
) -> JobView:
    losses = Losses(_so_far(client, job_id))
    with Live(console=screen, auto_refresh=False, transient=is_passing) as live:
        while True:
            job = client.get(job_id)
            losses.add(job)
            live.update(picture(job, losses), refresh=True)
            if job.state.is_final:
                break
            time.sleep(POLL_SECONDS)
    if is_passing and job.state is State.SUCCEEDED:  # any other end is told as an error
        screen.print(_line(job, losses))
    return job


def _so_far(client: Client, job_id: str) -> list[float]:
    curve = client.series(job_id, [_LOSS], points=_LOSSES).series.get(_LOSS)
    return curve.last if curve is not None else []


def _line(job: JobView, losses: Losses) -> RenderableType:
    text = Text(f"{job.id} {status(job)} ", no_wrap=True, overflow="ellipsis")
    return text.append(str(losses), "cyan")


def _in_lines(client: Client, job_id: str, *, stderr: bool) -> JobView:
    """Prints a line when the state changes, and now and then while only the progress does."""
    said, said_at, kind = "", -_NEWS_SECONDS, ""
    while True:
        job = client.get(job_id)
        line, now = status(job), time.monotonic()
        news = f"{job.state} {job.attempt} {job.request} {job.queue_position}"
        if news != kind or (line != said and now - said_at >= _NEWS_SECONDS):
            click.echo(f"{job.id} {line}", err=stderr)
            said, said_at, kind = line, now, news
        if job.state.is_final:
            return job
        time.sleep(POLL_SECONDS)
