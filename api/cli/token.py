"""The commands on tokens, over the API or on the machine of the service."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path

import click
from rich.table import Table

from api.cli.base import as_json, cli, print_found, print_json
from api.cli.service import start
from api.cli.shared.durations import Duration
from api.cli.shared.endpoint import Endpoint
from api.render.tables import table_of
from api.schemas.accounts import NewToken, TokenView
from jobs.accounts.token import Limits, Role
from machine.text import duration


@cli.group()
def token() -> None:
    """Create, list and revoke API tokens."""


direct_option = click.option(
    "--direct",
    is_flag=True,
    help="Change the Redis of the settings, not through the API: on the machine of the service, "
    "for its first token.",
)
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="With --direct, the data directory of a running `spectrain up`; "
    "by default ./spectrain-data, if one runs there.",
)


@token.command()
@click.argument("name", help="What the token is for: laptop, ci.")
@click.option("--owner", help="Let it act for this account; by default your own.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.USER.value,
    show_default=True,
    help="Allow it this.",
)
@click.option("--expires", type=Duration(), metavar="TIME", help="Let it expire after 12h or 30d.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True),
              help="Allow so many requests per second.")  # fmt: skip
@click.option("--running", type=click.IntRange(min=0), help="Let its owner run so many jobs.")
@click.option("--gpus", type=click.IntRange(min=0), help="Let its owner use so many GPUs.")
@direct_option
@data_option
@as_json
@click.pass_obj
def create(
    endpoint: Endpoint, name: str, owner: str | None, role: str, expires: float | None,
    rate: float | None, running: int | None, gpus: int | None, direct: bool, data: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Create a token, and print it: it cannot be read again later."""
    limits = Limits(requests_per_second=rate, running=running, gpus=gpus)
    try:
        new = NewToken(
            name=name, owner=owner, role=Role(role), expires_seconds=expires, limits=limits
        )
    except ValueError:
        raise click.UsageError(
            "NAME and --owner have letters, digits and . _ @ + - only, 64 characters at most."
        ) from None
    if direct or data:
        sys.exit(start("api.ops.tokens", "create", new=new, data=data))
    with endpoint.client() as client:
        created = client.accounts.create(new)
    if as_json:
        print_json(created)
        return
    click.echo(f"{created.id}: {created.role} for {created.owner}", err=True)
    click.echo(created.token)


@token.command()
@as_json
@click.pass_obj
def ls(endpoint: Endpoint, as_json: bool) -> None:
    """List the tokens, without their texts."""
    with endpoint.client() as client:
        found = client.accounts.tokens()
    print_found(found, _table, kind="tokens", as_json=as_json)


@token.command()
@click.argument(
    "token_id", metavar="ID", help="The id of the token, as `spectrain token ls` has it."
)
@direct_option
@data_option
@click.pass_obj
def revoke(endpoint: Endpoint, token_id: str, direct: bool, data: Path | None) -> None:
    """Revoke a token.

    Within a second the service no longer accepts it, nor its sessions.
    """
    if direct or data:
        sys.exit(start("api.ops.tokens", "revoke", token_id=token_id, data=data))
    with endpoint.client() as client:
        client.accounts.revoke(token_id)
    click.echo(f"{token_id} is revoked")


def _table(tokens: Iterable[TokenView]) -> Table:
    now = time.time()
    table = table_of("id", "name", "owner", "role", "created", "expires", "last used",
                     first_to_go=("created", "last used", "name"))  # fmt: skip
    for one in tokens:
        table.add_row(
            one.id, one.name, one.owner, one.role,
            f"{duration(now - one.created_at)} ago" if one.created_at else "",
            _until(one.expires_at, now),
            f"{duration(max(0.0, now - one.last_used_at))} ago" if one.last_used_at else "",
        )  # fmt: skip
    return table


def _until(at: float | None, now: float) -> str:
    if at is None:
        return "never"
    return f"in {duration(at - now)}" if at > now else "expired"
