"""The commands on jobs: submit, look, ask, fetch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from api.cli.base import Endpoint, as_json, cli, job_argument, print_json
from api.cli.spec_file import read_spec
from api.client.client import Client
from api.client.find import find_job
from api.render import console, job_table, story
from api.schemas import JobView
from jobs.model.states import State


@cli.command()
@click.argument("file", type=click.File("rb"))
@click.option("--wait", is_flag=True, help="Return when the job has ended; 1 unless it succeeded.")
@click.option("--follow", "-f", is_flag=True, help="The same, and print its output meanwhile.")
@as_json
@click.pass_obj
def submit(endpoint: Endpoint, file: Any, wait: bool, follow: bool, as_json: bool) -> None:
    """Submit the job in FILE (YAML or JSON; - reads standard input)."""
    spec = read_spec(file.read())
    with endpoint.client(patient=wait or follow) as client:
        job = client.submit(spec)
        if not as_json:
            click.echo(job.id)
        if follow:
            _print_log(client, job.id, err=as_json)
        if wait or follow:
            job = client.wait(job.id)
    if as_json:
        print_json(job)
    if wait or follow:
        _exit_as(job)


@cli.command("ls")
@click.option("--state", type=click.Choice([str(state) for state in State]))
@click.option("--label", "labels", metavar="KEY:VALUE", multiple=True)
@click.option("--pool")
@click.option("--name")
@click.option("--limit", "-n", type=click.IntRange(min=1), default=50, show_default=True)
@as_json
@click.pass_obj
def list_jobs(
    endpoint: Endpoint,
    state: str | None,
    labels: tuple[str, ...],
    pool: str | None,
    name: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, newest first."""
    if bad := [label for label in labels if ":" not in label]:
        raise click.BadParameter(f"{bad[0]!r} is not of the form KEY:VALUE", param_hint="--label")
    pairs = dict(label.split(":", 1) for label in labels)
    with endpoint.client() as client:
        jobs = list(client.list(state=state, labels=pairs, pool=pool, name=name, limit=limit))
    if as_json:
        print_json(jobs)
    elif jobs:
        console().print(job_table(jobs))
    else:
        click.echo("There are no such jobs.", err=True)


@cli.command()
@job_argument
@as_json
@click.pass_obj
def show(endpoint: Endpoint, job: str, as_json: bool) -> None:
    """Tell the story of a job."""
    with endpoint.client() as client:
        found = client.get(find_job(client, job))
    if as_json:
        print_json(found)
    else:
        console().print(story(found))


@cli.command()
@job_argument
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
@click.option("--attempt", type=click.IntRange(min=1), help="Of this attempt only; all by default.")
@click.pass_obj
def logs(endpoint: Endpoint, job: str, follow: bool, attempt: int | None) -> None:
    """Print what the training process printed, each line with its attempt."""
    with endpoint.client(patient=follow) as client:
        _print_log(client, find_job(client, job), follow=follow, attempt=attempt)


def _asking(name: str, ask: Callable[[Client, str], JobView], help_text: str) -> None:
    @cli.command(name, help=help_text)
    @job_argument
    @as_json
    @click.pass_obj
    def command(endpoint: Endpoint, job: str, as_json: bool) -> None:
        with endpoint.client() as client:
            found = ask(client, find_job(client, job))
        if as_json:
            print_json(found)
        else:
            asked = f", asked to {found.request}" if found.request else ""
            click.echo(f"{found.id} is {found.state}{asked}")


_asking("cancel", Client.cancel, "End a job for good; one that runs saves first.")
_asking("preempt", Client.preempt, "Take a running job off its worker; it goes on when it can.")
_asking("pause", Client.pause, "Let a running job save and hold.")
_asking("resume", Client.resume, "Let a paused job go on, or take its pause back.")
_asking("retry", Client.retry, "Let a failed or cancelled job go on from its checkpoint.")


@cli.command()
@job_argument
@click.option("--priority", type=click.IntRange(0, 9))
@click.option("--label", "labels", metavar="KEY:VALUE", multiple=True, help="KEY: removes it.")
@click.option("--run-seconds", type=click.FloatRange(min=0, min_open=True))
@click.option("--stall-seconds", type=click.FloatRange(min=0, min_open=True))
@click.option("--preemptible/--not-preemptible", default=None)
@click.pass_obj
def change(
    endpoint: Endpoint, /, job: str, labels: Sequence[str], run_seconds: float | None,
    stall_seconds: float | None, **others: int | None,
) -> None:  # fmt: skip
    """Change a job's priority, labels or limits while it waits or runs."""
    limits = {"run_seconds": run_seconds, "stall_seconds": stall_seconds}
    changes: dict[str, Any] = {name: value for name, value in others.items() if value is not None}
    if given := {name: value for name, value in limits.items() if value is not None}:
        changes["limits"] = given
    if labels:
        pairs = (label.partition(":") for label in labels)
        changes["labels"] = {key: value or None for key, _, value in pairs}
    if not changes:
        raise click.UsageError("say what to change; --help lists what can be")
    with endpoint.client() as client:
        found = client.change(find_job(client, job), **changes)
    click.echo(f"{found.id} has priority {found.priority} and is {found.state}")


@cli.command()
@job_argument
@click.argument("directory", metavar="[DIR]", type=click.Path(path_type=Path), required=False)
@click.pass_obj
def fetch(endpoint: Endpoint, job: str, directory: Path | None) -> None:
    """Fetch all files of a run into DIR, by default a directory of the job's name."""
    with endpoint.client() as client:
        job_id = find_job(client, job)
        paths = client.fetch(job_id, directory or Path(job_id))
    for path in paths:
        click.echo(path)


@cli.command("rm")
@job_argument
@click.option("--files", is_flag=True, help="Delete the files of its run too.")
@click.pass_obj
def remove(endpoint: Endpoint, job: str, files: bool) -> None:
    """Forget a job that has ended."""
    with endpoint.client() as client:
        client.delete(find_job(client, job), files=files)


def _print_log(
    client: Client, job_id: str, *, attempt: int | None = None, follow: bool = True,
    err: bool = False,
) -> None:  # fmt: skip
    for text in client.logs(job_id, attempt=attempt, follow=follow):
        click.echo(text, nl=False, err=err)


def _exit_as(job: JobView) -> None:
    if job.state is not State.SUCCEEDED:
        raise click.ClickException(f"{job.id} {job.state}: {job.message or job.reason}")
