"""The command `cancel`: one job, or all that a person has."""

from __future__ import annotations

from typing import Any

import click

from api.cli.base import as_json, cli, print_json
from api.cli.jobs import say_state
from api.cli.shared.endpoint import Endpoint
from api.cli.shared.selection import Selection, selecting
from api.cli.shared.which_job import id_to_change, job_to_change
from api.client.client import Client
from api.client.transport import ApiError
from jobs.model.record import Job
from jobs.model.states import State

_SHOWN = 10
_GONE = {404, 409}  # ended or deleted meanwhile


@cli.command()
@job_to_change(required=False)
@click.option("--all", "every", is_flag=True,
              help="Cancel all your jobs that have not ended, or some of them.")  # fmt: skip
@selecting
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@as_json
@click.pass_obj
def cancel(
    endpoint: Endpoint, /, job: str | None, every: bool, yes: bool, as_json: bool, **options: Any
) -> None:
    """Cancel a job; a running job saves a checkpoint first."""
    if every == (job is not None):
        raise click.UsageError("give the ID of a job, or --all")
    if job is not None and any(options.values()):
        raise click.UsageError("options that choose jobs are for --all")
    with endpoint.client() as client:
        if job is not None:
            found = client.cancel(id_to_change(client, job))
            print_json(found) if as_json else say_state(found)
            return
        jobs = _unfinished(client, Selection.of(client, **{**options, "mine": True}))
        if not jobs:
            click.echo("There is no job to cancel.", err=True)
            return
        if not yes:
            _ask(jobs)
        cancelled = [view for one in jobs if (view := _cancel(client, one.id)) is not None]
    if as_json:
        print_json(cancelled)
    else:
        for view in cancelled:
            say_state(view)


def _unfinished(client: Client, selection: Selection) -> list[Job]:
    """The jobs that have not ended, those first that wait: none of them begins meanwhile."""
    states = [State.QUEUED, State.PAUSED, State.RUNNING]
    if selection.state is not None:
        states = [state for state in states if state == selection.state]
    return [
        job for state in states for job in client.list(**selection.query, state=state, limit=None)
    ]


def _ask(jobs: list[Job]) -> None:
    for job in jobs[:_SHOWN]:
        click.echo(f"{job.id} is {job.state}", err=True)
    if len(jobs) > _SHOWN:
        click.echo(f"and {len(jobs) - _SHOWN} more", err=True)
    count = "this job" if len(jobs) == 1 else f"these {len(jobs)} jobs"
    click.confirm(f"Cancel {count}?", abort=True, err=True)


def _cancel(client: Client, job_id: str) -> Any:
    try:
        return client.cancel(job_id)
    except ApiError as error:
        if error.status not in _GONE:
            raise
        return None
