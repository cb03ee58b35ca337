"""The parts that all commands share: the group, its options, and how lists are printed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import click
from pydantic import BaseModel
from rich.table import Table

from api.cli.shared.commands import Commands
from api.cli.shared.completion import SHELLS, script_of
from api.cli.shared.endpoint import FOLLOW_PATIENCE, PATIENCE, endpoint_of
from api.client.nearest import DEFAULT_URL
from api.render import console

Item = TypeVar("Item", bound=BaseModel)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url",
    envvar="SPECTRAIN_URL",
    show_default=DEFAULT_URL,
    help="Set the URL of the service.",
)
@click.option("--token", envvar="SPECTRAIN_API_TOKEN", help="Set the API token.")
@click.option(
    "--profile",
    envvar="SPECTRAIN_PROFILE",
    metavar="NAME",
    help="Use the service of this profile in ~/.config/spectrain.toml.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Retry for this long if no service answers; by default "
    f"{PATIENCE} seconds, {FOLLOW_PATIENCE} while following a job.",
)
@click.version_option(
    package_name="spectrain",
    prog_name="spectrain",
    # An image knows the commit that it was built from; a checkout has git for that.
    message=" ".join(["%(prog)s %(version)s", os.environ.get("SPECTRAIN_REVISION", "")]).strip(),
)
@click.pass_context
def cli(ctx: click.Context, /, **_: object) -> None:
    """Submit training jobs, follow them, and run the service.

    `ps` is another name of `ls`, and `stop` one of `cancel`.
    """
    ctx.obj = endpoint_of(ctx)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_found(
    found: Sequence[Item], table: Callable[[Sequence[Item]], Table], *, kind: str, as_json: bool
) -> None:
    """Prints a list as JSON or as a table; says on standard error if it is empty."""
    if as_json:
        print_json(found)
    elif found:
        console().print(table(found))
    else:
        click.echo(f"No {kind} found.", err=True)


def print_json(value: BaseModel | Sequence[BaseModel]) -> None:
    """Prints one value, or a list of values, as JSON."""
    found = (
        value.model_dump(mode="json")
        if isinstance(value, BaseModel)
        else [one.model_dump(mode="json") for one in value]
    )
    click.echo(json.dumps(found, indent=2))


@cli.command()
@click.argument("shell", type=click.Choice(SHELLS), help="The shell that you use.")
def completion(shell: str) -> None:
    """Print the script that completes words in a shell.

    It completes commands, options and the ids of jobs.

    For bash: `source <(spectrain completion bash)` in ~/.bashrc. For zsh:
    `source <(spectrain completion zsh)` in ~/.zshrc, below `compinit`. For fish:
    `spectrain completion fish > ~/.config/fish/completions/spectrain.fish`.
    """
    click.echo(script_of(cli, shell))
