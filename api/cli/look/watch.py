"""The command `watch`: jobs as they are now, and now, and now."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from api.cli.base import cli
from api.cli.jobs import exit_as
from api.cli.look.live import Losses, until_it_ends
from api.cli.shared.endpoint import Endpoint
from api.cli.shared.selection import Selection, selecting
from api.cli.shared.which_job import id_to_see, job_to_see
from api.client.client import Client
from api.render import console, job_table, pool_table, story
from api.schemas import JobView
from jobs.model.record import Job
from jobs.model.states import State

# Jobs that do or want something come first, then those that have ended, newest first.
_FIRST = (State.RUNNING, State.QUEUED, State.PAUSED)
_USUAL_ROWS = 20
_OTHER_LINES = 4  # of the table of jobs


@cli.command()
@job_to_see(required=False, otherwise=" By default a table of all jobs.")
@selecting
@click.option("--interval", type=click.FloatRange(min=0.2), default=2.0, show_default=True,
              metavar="SECONDS", help="Look this often at the table.")  # fmt: skip
@click.option("--once", is_flag=True, help="Print the table once.")
@click.pass_obj
def watch(
    endpoint: Endpoint, /, job: str | None, interval: float, once: bool, **options: Any
) -> None:
    """Show jobs live: a table of all, or one job.

    One job is shown with its loss, step and time left. With ID it ends with the job, and exits
    with 1 unless the job succeeds. Ctrl-C stops looking; the jobs go on.
    """
    with endpoint.client(patient=True) as client:
        if job is not None:
            exit_as(until_it_ends(client, id_to_see(client, job), stderr=False, shown=_one))
            return
        selection = Selection.of(client, **options)
        screen = console()
        if once or not screen.is_terminal:
            screen.print(_all(client, selection, _USUAL_ROWS))
            return
        # Ctrl-C is how one leaves.
        with (
            contextlib.suppress(KeyboardInterrupt),
            Live(console=screen, screen=True, auto_refresh=False) as live,
        ):
            while True:
                live.update(_all(client, selection, screen.height), refresh=True)
                time.sleep(interval)


def _one(job: JobView, losses: Losses) -> RenderableType:
    return Group(story(job), Text(str(losses), "cyan"))


def _all(client: Client, selection: Selection, height: int) -> RenderableType:
    pools = client.pools()
    rows = max(1, height - len(pools) - 2 * _OTHER_LINES)
    found = _jobs(client, selection, rows)
    clock = time.strftime("%H:%M:%S")
    title = Text(f"{len(found)} jobs at {clock}", "bright_black")
    return Group(title, job_table(found), Text(), pool_table(pools))


def _jobs(client: Client, selection: Selection, rows: int) -> list[Job]:
    query: Mapping[str, Any] = selection.query
    if selection.state is not None:
        return list(client.list(**query, state=selection.state, limit=rows))
    found: dict[str, Job] = {}
    for state in (*_FIRST, None):
        if len(found) < rows:
            jobs = client.list(**query, state=state, limit=rows)
            found |= {job.id: job for job in jobs if job.id not in found}
    return list(found.values())[:rows]
