"""The commands for jobs: list, show, control and fetch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from api.cli.base import as_json, cli, print_found, print_json
from api.cli.shared.endpoint import Endpoint
from api.cli.shared.selection import Selection, selecting
from api.cli.shared.which_job import id_to_change, id_to_see, job_to_change, job_to_see
from api.client.client import Client
from api.render import console, job_table, story
from api.render.downloads import Downloads
from api.render.terminal import print_output
from api.schemas import JobView
from jobs.model.states import State
from machine.text import plain


@cli.command("ls")
@selecting
@click.option(
    "--limit", "-n", type=click.IntRange(min=1), default=50, show_default=True,
    help="Show at most this many jobs.",
)  # fmt: skip
@as_json
@click.pass_obj
def list_jobs(endpoint: Endpoint, /, limit: int, as_json: bool, **options: Any) -> None:
    """List jobs, newest first."""
    with endpoint.client() as client:
        chosen = Selection.of(client, **options)
        jobs = list(client.list(**chosen.query, state=chosen.state, limit=limit))
    print_found(jobs, job_table, kind="jobs", as_json=as_json)


@cli.command()
@job_to_see()
@as_json
@click.pass_obj
def show(endpoint: Endpoint, job: str, as_json: bool) -> None:
    """Show a job's state, progress and attempts."""
    with endpoint.client() as client:
        found = client.get(id_to_see(client, job))
    if as_json:
        print_json(found)
    else:
        console().print(story(found))


def _control(name: str, send: Callable[[Client, str], JobView], help_text: str) -> None:
    @cli.command(name, help=help_text)
    @job_to_change()
    @as_json
    @click.pass_obj
    def command(endpoint: Endpoint, job: str, as_json: bool) -> None:
        with endpoint.client() as client:
            found = send(client, id_to_change(client, job))
        if as_json:
            print_json(found)
        else:
            say_state(found)


def say_state(job: JobView) -> None:
    """Says what has become of a job that was told something."""
    request = f", asked to {job.request}" if job.request else ""
    click.echo(f"{job.id} is {job.state}{request}")


_control("preempt", Client.preempt, "Preempt a running job; it is requeued and resumes.")
_control("pause", Client.pause, "Pause a job; it saves a checkpoint first.")
_control("resume", Client.resume, "Resume a paused job, or withdraw its pause.")
_control("retry", Client.retry, "Requeue a failed or cancelled job from its checkpoint.")


@cli.command()
@job_to_change()
@click.option("--priority", type=click.IntRange(0, 9), help="Set the priority.")
@click.option("--label", "labels", metavar="KEY:VALUE", multiple=True,
              help="Set a label; KEY: removes it. May be repeated.")  # fmt: skip
@click.option("--run-seconds", type=click.FloatRange(min=0, min_open=True),
              help="Set the limit on run time.")  # fmt: skip
@click.option("--stall-seconds", type=click.FloatRange(min=0, min_open=True),
              help="Set the limit on time without a step.")  # fmt: skip
@click.option("--preemptible/--not-preemptible", default=None,
              help="Allow or forbid eviction by jobs of higher priority.")  # fmt: skip
@click.pass_obj
def change(
    endpoint: Endpoint, /, job: str, labels: Sequence[str], run_seconds: float | None,
    stall_seconds: float | None, **others: int | None,
) -> None:  # fmt: skip
    """Change a job's priority, labels or limits before it ends."""
    limits = {"run_seconds": run_seconds, "stall_seconds": stall_seconds}
    changes: dict[str, Any] = {name: value for name, value in others.items() if value is not None}
    if given := {name: value for name, value in limits.items() if value is not None}:
        changes["limits"] = given
    if labels:
        pairs = (label.partition(":") for label in labels)
        changes["labels"] = {key: value or None for key, _, value in pairs}
    if not changes:
        raise click.UsageError("nothing to change; --help lists the options")
    with endpoint.client() as client:
        found = client.change(id_to_change(client, job), **changes)
    click.echo(f"{found.id} has priority {found.priority} and is {found.state}")


@cli.command()
@job_to_see()
@click.argument(
    "directory", metavar="[DIR]", type=click.Path(path_type=Path), required=False,
    help="A directory for the files; by default one named like the job.",
)  # fmt: skip
@click.pass_obj
def fetch(endpoint: Endpoint, job: str, directory: Path | None) -> None:
    """Fetch the files of a run.

    Only those that are new or have changed, several at once, into DIR. An interrupted
    download goes on where it stopped.
    """
    with endpoint.client() as client:
        job_id = id_to_see(client, job)
        with Downloads() as downloads:
            paths = client.fetch(job_id, directory or Path(job_id), on_progress=downloads.show)
    for path in paths:
        click.echo(path)
    click.echo(downloads.summary(len(paths)), err=True)


@cli.command("rm")
@job_to_change()
@click.option("--files", is_flag=True, help="Also delete the files of its run.")
@click.pass_obj
def remove(endpoint: Endpoint, job: str, files: bool) -> None:
    """Delete a job that has ended."""
    with endpoint.client() as client:
        client.delete(id_to_change(client, job), files=files)


def print_log(
    client: Client, job_id: str, *, attempt: int | None = None, follow: bool = True,
    err: bool = False,
) -> None:  # fmt: skip
    """Prints the output of a job."""
    print_output(client.logs(job_id, attempt=attempt, follow=follow), stderr=err)


def exit_as(job: JobView) -> None:
    """Ends the command with an error unless the job has succeeded."""
    if job.state is not State.SUCCEEDED:
        raise click.ClickException(f"{job.id} {job.state}: {plain(job.message) or job.reason}")
