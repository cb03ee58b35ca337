"""The commands `diff` and `compare`: what differs between jobs."""

from __future__ import annotations

import click

from api.cli.base import as_json, cli, print_json
from api.cli.shared.commands import Exit
from api.cli.shared.completion import JobId
from api.cli.shared.endpoint import Endpoint
from api.cli.shared.which_job import ids_to_see
from api.render import console
from api.render.comparison import comparison
from api.render.differences import differences, is_same

_FEWEST = 2


@cli.command()
@click.argument("job", metavar="A", type=JobId(), help="A job's id, its name, or a part of its id.")
@click.argument(
    "other", metavar="B", type=JobId(), help="Another job's id, name or part of its id."
)
@click.option("--exit-code", is_flag=True, help="Exit with 1 if anything differs.")
@as_json
@click.pass_context
def diff(ctx: click.Context, job: str, other: str, exit_code: bool, as_json: bool) -> None:
    """Show what differs between two jobs.

    Their specification, code, environment and curves.
    """
    endpoint: Endpoint = ctx.obj
    with endpoint.client() as client:
        one, two = ids_to_see(client, (job, other))
        found = client.diff(one, two)
    if as_json:
        print_json(found)
    else:
        console().print(differences(found, one, two))
    if exit_code and not is_same(found):
        ctx.exit(Exit.FAILED)


@cli.command()
@click.argument("names", metavar="A B...", type=JobId(), nargs=-1, required=True,
                help="Ids of 2 to 20 jobs, their names, or parts of their ids.")  # fmt: skip
@as_json
@click.pass_obj
def compare(endpoint: Endpoint, names: tuple[str, ...], as_json: bool) -> None:
    """Compare jobs: their results, and what differs.

    Also the first step from which on their curves differ.
    """
    if len(names) < _FEWEST:
        raise click.UsageError("give at least two jobs")
    with endpoint.client() as client:
        found = client.compare(*ids_to_see(client, names))
    if as_json:
        print_json(found)
    else:
        console().print(comparison(found))
