"""The command line: `spectrain`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource
from pydantic import BaseModel

from api.client import ApiError, Client, Unreachable
from api.find import NotOneFoundError, find_job, find_worker
from api.render import console, job_table, pool_table, story, worker_table
from api.specfile import SpecFileError, read_spec
from api.wire import JobView
from jobs.states import State
from jobs.workers import Worker

DEFAULT_URL = "http://127.0.0.1:8080"
# How long (seconds) a service that is away is waited for: a person at the keyboard wants to know;
# whoever follows a job wants to see its end.
_PATIENCE, _FOLLOW_PATIENCE = 2.0, 120.0


@dataclass(frozen=True)
class Service:
    """Which service to talk to."""

    url: str
    token: str | None

    def client(self, *, patient: bool = False) -> Client:
        """A client of it."""
        return Client(self.url, self.token, patience=_FOLLOW_PATIENCE if patient else _PATIENCE)


class _Sentences(click.Group):
    """Ends with one sentence on standard error, and 1, where a command could not do its work."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ApiError, NotOneFoundError, OSError, SpecFileError, Unreachable) as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise click.ClickException(str(error)) from error


@click.group(cls=_Sentences, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url", envvar="SPECTRAIN_URL", default=DEFAULT_URL, show_default=True, help="The service."
)
@click.option("--token", envvar="SPECTRAIN_API_TOKEN", help="A token of the service.")
@click.version_option(package_name="spectrain", prog_name="spectrain")
@click.pass_context
def cli(ctx: click.Context, url: str, token: str | None) -> None:
    """Training jobs that come back finished."""
    ctx.obj = Service(url, token)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
job_argument = click.argument("job", metavar="ID")


# -- jobs -------------------------------------------------------------------------------------


@cli.command()
@click.argument("file", type=click.File("rb"))
@click.option("--wait", is_flag=True, help="Return when the job has ended; 1 unless it succeeded.")
@click.option("--follow", "-f", is_flag=True, help="The same, and print its output meanwhile.")
@as_json
@click.pass_obj
def submit(service: Service, file: Any, wait: bool, follow: bool, as_json: bool) -> None:
    """Submit the job in FILE (YAML or JSON; - reads standard input)."""
    spec = read_spec(file.read())
    with service.client(patient=wait or follow) as client:
        job = client.submit(spec)
        if not as_json:
            click.echo(job.id)
        if follow:
            _print_log(client, job.id, err=as_json)
        if wait or follow:
            job = client.wait(job.id)
    if as_json:
        _print_json(job)
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
    service: Service,
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
    with service.client() as client:
        jobs = list(client.list(state=state, labels=pairs, pool=pool, name=name, limit=limit))
    if as_json:
        _print_json(jobs)
    elif jobs:
        console().print(job_table(jobs))
    else:
        click.echo("There are no such jobs.", err=True)


@cli.command()
@job_argument
@as_json
@click.pass_obj
def show(service: Service, job: str, as_json: bool) -> None:
    """Tell the story of a job."""
    with service.client() as client:
        found = client.get(find_job(client, job))
    if as_json:
        _print_json(found)
    else:
        console().print(story(found))


@cli.command()
@job_argument
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
@click.pass_obj
def logs(service: Service, job: str, follow: bool) -> None:
    """Print what the training process printed."""
    with service.client(patient=follow) as client:
        _print_log(client, find_job(client, job), follow=follow)


def _asking(name: str, ask: Callable[[Client, str], JobView], help_text: str) -> None:
    @cli.command(name, help=help_text)
    @job_argument
    @as_json
    @click.pass_obj
    def command(service: Service, job: str, as_json: bool) -> None:
        with service.client() as client:
            found = ask(client, find_job(client, job))
        if as_json:
            _print_json(found)
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
    service: Service, /, job: str, labels: Sequence[str], run_seconds: float | None,
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
    with service.client() as client:
        found = client.change(find_job(client, job), **changes)
    click.echo(f"{found.id} has priority {found.priority} and is {found.state}")


@cli.command()
@job_argument
@click.argument("directory", metavar="[DIR]", type=click.Path(path_type=Path), required=False)
@click.pass_obj
def fetch(service: Service, job: str, directory: Path | None) -> None:
    """Fetch all files of a run into DIR, by default a directory of the job's name."""
    with service.client() as client:
        job_id = find_job(client, job)
        paths = client.fetch(job_id, directory or Path(job_id))
    for path in paths:
        click.echo(path)


@cli.command("rm")
@job_argument
@click.option("--files", is_flag=True, help="Delete the files of its run too.")
@click.pass_obj
def remove(service: Service, job: str, files: bool) -> None:
    """Forget a job that has ended."""
    with service.client() as client:
        client.delete(find_job(client, job), files=files)


# -- workers ----------------------------------------------------------------------------------


@cli.command()
@as_json
@click.pass_obj
def workers(service: Service, as_json: bool) -> None:
    """List the workers that are there."""
    with service.client() as client:
        found = client.workers()
    if as_json:
        _print_json(found)
    elif found:
        console().print(worker_table(found))
    else:
        click.echo("There are no workers.", err=True)


@cli.command()
@as_json
@click.pass_obj
def pools(service: Service, as_json: bool) -> None:
    """List the pools: their workers and their jobs."""
    with service.client() as client:
        found = client.pools()
    if as_json:
        _print_json(found)
    elif found:
        console().print(pool_table(found))
    else:
        click.echo("There are no pools.", err=True)


# -- processes --------------------------------------------------------------------------------


@cli.command()
@click.option("--host", help="Address to listen on; other than loopback only with tokens.")
@click.option("--port", type=click.IntRange(0, 65535))
def api(host: str | None, port: int | None) -> None:
    """Serve the API in this process."""
    _become("api.serve", API_HOST=host, API_PORT=port)


@cli.group(invoke_without_command=True)
@click.option("--pool", help="The pool whose jobs it takes.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]))
@click.pass_context
def worker(ctx: click.Context, pool: str | None, device: str | None) -> None:
    """Take jobs and run them, one at a time; or drain a worker that does."""
    if ctx.invoked_subcommand is None:
        _become("worker", POOL=pool, DEVICE=device)


def _draining(name: str, ask: Callable[[Client, str], Worker], help_text: str) -> None:
    @worker.command(name, help=help_text)
    @click.argument("worker_name", metavar="NAME")
    @click.pass_obj
    def command(service: Service, worker_name: str) -> None:
        with service.client() as client:
            found = ask(client, find_worker(client, worker_name))
        job = f", with job {found.job}" if found.job else ""
        click.echo(f"{found.name} is {found.state}{job}")


_draining("drain", Client.drain, "Let a worker end its job and take no further one.")
_draining("undrain", Client.undrain, "Let a drained worker take jobs again.")


@cli.command()
def reaper() -> None:
    """Find lost jobs and queue them again; API and workers do so too, one process at a time."""
    _become("api.reaper")


@cli.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("spectrain-data"))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--workers", type=click.IntRange(min=0), help="Default: one a GPU, or one.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
def up(**options: Any) -> None:
    """Run the whole service on this machine, with all its data in one directory."""
    sys.exit(_start("api.up", "up", **options))


@cli.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("spectrain-demo"))
def demo(data: Path) -> None:
    """See it all: train, preempt, resume, fetch."""
    sys.exit(_start("api.demo", "demo", directory=data))


@cli.command()
@click.option(
    "--signal",
    "signal_name",
    type=click.Choice(["TERM", "KILL"]),
    default="TERM",
    show_default=True,
)
@click.option(
    "--target",
    type=click.Choice(["child", "worker", "redis"]),
    default="worker",
    show_default=True,
    help="The training process, its worker, or the Redis server.",
)
@click.option("--times", type=click.IntRange(1, 1000), default=3, show_default=True)
@click.option(
    "--at",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="STEP",
    help="Interrupt at this step; repeatable, in place of --times.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of the moments, which are random.")
@click.option("--spec", type=click.File("rb"), help="The job; a small one by default.")
@click.option("--data", type=click.Path(path_type=Path), help="Keep everything in here.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@as_json
@click.pass_context
def drill(ctx: click.Context, /, spec: Any, **options: Any) -> None:
    """Interrupt a job, and see whether it ends as if nothing had happened.

    It runs twice, once untouched; the curves are compared digit for digit, the final weights bit
    for bit. In a service of its own, unless --url or SPECTRAIN_URL names one.
    """
    service: Service = ctx.obj
    named = ctx.find_root().get_parameter_source("url") is not ParameterSource.DEFAULT
    options["url"] = service.url if named else None
    options["spec"] = read_spec(spec.read()) if spec else None
    sys.exit(_start("api.drill", "drill", token=service.token, **options))


# -- the rest ---------------------------------------------------------------------------------


def _start(module: str, name: str, **options: Any) -> int:
    # By name: these start servers, and the rest of the command line needs none of what they import.
    return int(getattr(import_module(module), name)(**options))


def _become(module: str, **settings: object) -> NoReturn:
    given = {name: str(value) for name, value in settings.items() if value is not None}
    os.environ.update({f"SPECTRAIN_{name}": value for name, value in given.items()})
    os.execv(sys.executable, [sys.executable, "-m", module])  # noqa: S606 - no shell


def _print_log(client: Client, job_id: str, *, follow: bool = True, err: bool = False) -> None:
    for text in client.logs(job_id, follow=follow):
        click.echo(text, nl=False, err=err)


def _print_json(value: BaseModel | Sequence[BaseModel]) -> None:
    if isinstance(value, BaseModel):
        click.echo(value.model_dump_json(indent=2))
    else:
        click.echo(json.dumps([one.model_dump(mode="json") for one in value], indent=2))


def _exit_as(job: JobView) -> None:
    if job.state is not State.SUCCEEDED:
        raise click.ClickException(f"{job.id} {job.state}: {job.message or job.reason}")


def main() -> None:
    """The console script."""
    cli(prog_name="spectrain")


if __name__ == "__main__":
    main()
