"""The commands for the service: workers, pools, processes, demo and drill."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from api.cli.base import as_json, cli, print_found
from api.cli.shared.endpoint import Endpoint
from api.client.client import Client
from api.client.find import find_worker
from api.render import pool_table, worker_table
from jobs.model.workers import Worker
from machine.python import python_module

device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
    help="Train on this device.",
)  # fmt: skip

# -- workers ----------------------------------------------------------------------------------


@cli.command()
@as_json
@click.pass_obj
def workers(endpoint: Endpoint, as_json: bool) -> None:
    """List the workers."""
    with endpoint.client() as client:
        found = client.workers()
    print_found(found, worker_table, kind="workers", as_json=as_json)


@cli.command()
@as_json
@click.pass_obj
def pools(endpoint: Endpoint, as_json: bool) -> None:
    """List the pools with their workers and jobs."""
    with endpoint.client() as client:
        found = client.pools()
    print_found(found, pool_table, kind="pools", as_json=as_json)


# -- processes --------------------------------------------------------------------------------


@cli.command()
@click.option("--host", help="Listen on this address; any other than loopback requires API tokens.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen on this port.")
def api(host: str | None, port: int | None) -> None:
    """Run the API."""
    _become("api.server.serve", API_HOST=host, API_PORT=port)


@cli.group(invoke_without_command=True)
@click.option("--pool", help="Run the jobs of this pool.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Train on this device.")
@click.pass_context
def worker(ctx: click.Context, pool: str | None, device: str | None) -> None:
    """Run a worker, or drain one."""
    if ctx.invoked_subcommand is None:
        _become("worker", POOL=pool, DEVICE=device)


def _draining(name: str, send: Callable[[Client, str], Worker], help_text: str) -> None:
    @worker.command(name, help=help_text)
    @click.argument(
        "worker_name",
        metavar="NAME",
        help="The worker's name, or a beginning or end of it that no other worker has.",
    )
    @click.pass_obj
    def command(endpoint: Endpoint, worker_name: str) -> None:
        with endpoint.client() as client:
            found = send(client, find_worker(client, worker_name))
        job = f", with job {found.job}" if found.job else ""
        click.echo(f"{found.name} is {found.state}{job}")


_draining("drain", Client.drain, "Let a worker finish its job and take no other.")
_draining("undrain", Client.undrain, "Let a drained worker take jobs again.")


@cli.command()
def reaper() -> None:
    """Run a reaper, which requeues lost jobs.

    The API and each worker run one too; only one of them is active at a time.
    """
    _become("api.ops.reaper")


@cli.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path("spectrain-data"),
    show_default=True,
    help="Keep all data in this directory.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen on this address.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Listen on this port.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Start this many workers; by default one per GPU, or one.",
)
@device_option
def up(**options: Any) -> None:
    """Run the whole service on this machine."""
    sys.exit(start("api.local.up", "up", **options))


@cli.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path("spectrain-demo"),
    show_default=True,
    help="Keep all data in this directory.",
)
def demo(data: Path) -> None:
    """Train a small model, preempt it, resume it and fetch it."""
    sys.exit(start("api.local.demo", "demo", directory=data))


@cli.command()
@click.option(
    "--signal",
    "signal_name",
    type=click.Choice(["TERM", "KILL"]),
    default="TERM",
    show_default=True,
    help="Send this signal.",
)
@click.option(
    "--target",
    type=click.Choice(["child", "worker", "redis"]),
    default="worker",
    show_default=True,
    help="Interrupt the training process, its worker, or Redis.",
)
@click.option(
    "--times",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="Interrupt this many times, at random steps.",
)
@click.option(
    "--at",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="STEP",
    help="Interrupt at this step instead; may be repeated.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Set the seed of the random steps.")
@click.option("--spec", type=click.File("rb"), help="Run this job; by default a small one.")
@click.option(
    "--job",
    "of",
    metavar="JOB",
    help="Run what this job of the service runs, and record the verdict with it.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Keep all data in this directory.")
@device_option
@as_json
@click.pass_obj
def drill(endpoint: Endpoint, /, spec: Any, **options: Any) -> None:
    """Interrupt a job and compare it with an uninterrupted run.

    Runs the job twice, once without interruptions, and compares all metrics digit for digit and
    the final weights bit for bit. Records the verdict with the jobs. Starts a service for this,
    unless --job is given, or an option, SPECTRAIN_URL or a profile names one.
    """
    if spec and options["of"]:
        raise click.UsageError("--spec and --job exclude each other.")
    options["connect"] = endpoint.client if endpoint.named or options["of"] else None
    if spec:
        from api.cli.spec_file import read_spec  # noqa: PLC0415 - see there

        spec = read_spec(spec.read())
    sys.exit(start("api.drill.run", "drill", url=endpoint.url, spec=spec, **options))


# -- the rest ---------------------------------------------------------------------------------


def start(module: str, name: str, **options: Any) -> int:
    """Imports a module, calls one of its functions and returns the exit code."""
    # Imported only when needed: these commands import far more than the rest of the command line.
    return int(getattr(import_module(module), name)(**options))


def _become(module: str, **settings: object) -> NoReturn:
    given = {name: str(value) for name, value in settings.items() if value is not None}
    os.environ.update({f"SPECTRAIN_{name}": value for name, value in given.items()})
    os.execv(sys.executable, python_module(module))  # noqa: S606 - no shell
