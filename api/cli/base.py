"""The parts that all commands share: the service they talk to, and how they report errors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel
from rich.table import Table

from api.client.client import ApiError, CannotSendError, Client, Unreachable
from api.client.find import NotOneFoundError
from api.render import console

DEFAULT_URL = "http://127.0.0.1:8080"
# Seconds for which a command retries when no service answers. A person at the keyboard wants to
# know soon; a command that follows a job outlasts a restart of the service.
_PATIENCE, _FOLLOW_PATIENCE = 5, 120
_ANSWER_SECONDS = 30.0
Item = TypeVar("Item", bound=BaseModel)


@dataclass(frozen=True)
class Endpoint:
    """The service to talk to."""

    url: str
    token: str | None
    timeout: float | None = None

    def client(self, *, patient: bool = False) -> Client:
        """A client for the service that prints on standard error what it is waiting for."""
        usual = _FOLLOW_PATIENCE if patient else _PATIENCE
        return Client(
            self.url,
            self.token,
            timeout=min(self.timeout or _ANSWER_SECONDS, _ANSWER_SECONDS),
            patience=usual if self.timeout is None else self.timeout,
            on_wait=lambda message: click.echo(message, err=True),
        )


class _Sentences(click.Group):
    """Prints expected errors as one message on standard error and exits with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ApiError, CannotSendError, NotOneFoundError, OSError, Unreachable) as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise click.ClickException(str(error)) from error


@click.group(cls=_Sentences, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url",
    envvar="SPECTRAIN_URL",
    default=DEFAULT_URL,
    show_default=True,
    help="Set the URL of the service.",
)
@click.option("--token", envvar="SPECTRAIN_API_TOKEN", help="Set the API token.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Retry for this long if no service answers; by default "
    f"{_PATIENCE} seconds, {_FOLLOW_PATIENCE} while following a job.",
)
@click.version_option(
    package_name="spectrain",
    prog_name="spectrain",
    # An image knows the commit that it was built from; a checkout has git for that.
    message=" ".join(["%(prog)s %(version)s", os.environ.get("SPECTRAIN_REVISION", "")]).strip(),
)
@click.pass_context
def cli(ctx: click.Context, url: str, token: str | None, timeout: float | None) -> None:
    """Submit training jobs, follow them, and run the service."""
    ctx.obj = Endpoint(url, token or _token_of_file(), timeout)


def _token_of_file() -> str | None:
    path = os.environ.get("SPECTRAIN_API_TOKEN_FILE")
    try:
        return Path(path).read_text().partition(",")[0].strip() if path else None
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"SPECTRAIN_API_TOKEN_FILE: {error}") from error


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
job_argument = click.argument(
    "job",
    metavar="ID",
    help="The job's id, or a beginning or end of it that no other recent job has.",
)


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
    if isinstance(value, BaseModel):
        click.echo(value.model_dump_json(indent=2))
    else:
        click.echo(json.dumps([one.model_dump(mode="json") for one in value], indent=2))
