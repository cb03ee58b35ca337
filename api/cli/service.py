"""The commands on the service: its workers and pools, its processes, demo and drill."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from api.cli.base import Endpoint, as_json, cli, print_json
from api.cli.spec_file import read_spec
from api.client.client import Client
from api.client.find import find_worker
from api.render import console, pool_table, worker_table
from jobs.model.workers import Worker
from machine.python import python_module

# -- workers ----------------------------------------------------------------------------------


@cli.command()
@as_json
@click.pass_obj
def workers(endpoint: Endpoint, as_json: bool) -> None:
    """List the workers that are there."""
    with endpoint.client() as client:
        found = client.workers()
    if as_json:
        print_json(found)
    elif found:
        console().print(worker_table(found))
    else:
        click.echo("There are no workers.", err=True)


@cli.command()
@as_json
@click.pass_obj
def pools(endpoint: Endpoint, as_json: bool) -> None:
    """List the pools: their workers and their jobs."""
    with endpoint.client() as client:
        found = client.pools()
    if as_json:
        print_json(found)
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
    _become("api.server.serve", API_HOST=host, API_PORT=port)


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
    def command(endpoint: Endpoint, worker_name: str) -> None:
        with endpoint.client() as client:
            found = ask(client, find_worker(client, worker_name))
        job = f", with job {found.job}" if found.job else ""
        click.echo(f"{found.name} is {found.state}{job}")


_draining("drain", Client.drain, "Let a worker end its job and take no further one.")
_draining("undrain", Client.undrain, "Let a drained worker take jobs again.")


@cli.command()
def reaper() -> None:
    """Find lost jobs and queue them again; API and workers do so too, one process at a time."""
    _become("api.ops.reaper")


@cli.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("spectrain-data"))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--workers", type=click.IntRange(min=0), help="Default: one a GPU, or one.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
def up(**options: Any) -> None:
    """Run the whole service on this machine, with all its data in one directory."""
    sys.exit(start("api.local.up", "up", **options))


@cli.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("spectrain-demo"))
def demo(data: Path) -> None:
    """See it all: train, preempt, resume, fetch."""
    sys.exit(start("api.local.demo", "demo", directory=data))


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
    endpoint: Endpoint = ctx.obj
    named = ctx.find_root().get_parameter_source("url") is not ParameterSource.DEFAULT
    options["connect"] = endpoint.client if named else None
    options["spec"] = read_spec(spec.read()) if spec else None
    sys.exit(start("api.drill.run", "drill", url=endpoint.url, **options))


# -- the rest ---------------------------------------------------------------------------------


def start(module: str, name: str, **options: Any) -> int:
    """The exit code of a function of a module that is imported now."""
    # By name: these start servers, and the rest of the command line needs none of what they import.
    return int(getattr(import_module(module), name)(**options))


def _become(module: str, **settings: object) -> NoReturn:
    given = {name: str(value) for name, value in settings.items() if value is not None}
    os.environ.update({f"SPECTRAIN_{name}": value for name, value in given.items()})
    os.execv(sys.executable, python_module(module))  # noqa: S606 - no shell
