"""The command `fork`: a new job that goes on from a checkpoint of another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from api.cli.base import as_json, cli, print_json
from api.cli.jobs import exit_as
from api.cli.look.live import until_it_ends
from api.cli.shared.endpoint import Endpoint
from api.cli.shared.which_job import id_to_change, job_to_change

# Their values are words of a program, which stay as they are typed.
_WORDS = ("env.", "labels.", "inputs.")


@cli.command()
@job_to_change()
@click.option(
    "--step", type=click.IntRange(min=0),
    help="Begin from the checkpoint of this step; by default from the newest.",
)  # fmt: skip
@click.option(
    "--set", "pairs", metavar="KEY=VALUE", multiple=True,
    help="Change a key of the job, such as train.optimizer.lr=3e-4; may be repeated.",
)  # fmt: skip
@click.option("--name", help="Set the name; by default that of the job.")
@click.option(
    "--wait", is_flag=True, help="Show how it is until the job ends; exit 1 unless it succeeds."
)
@as_json
@click.pass_obj
def fork(
    endpoint: Endpoint, job: str, step: int | None, pairs: Sequence[str], name: str | None,
    wait: bool, as_json: bool,
) -> None:  # fmt: skip
    """Submit a job that begins from a checkpoint of another.

    It has the settings of that job, but for those that --set changes.
    """
    changes = dict(map(_change, pairs))
    with endpoint.client(patient=wait) as client:
        forked = client.fork(id_to_change(client, job), step, changes=changes, name=name)
        if not as_json:
            click.echo(forked.id)
        if wait:
            forked = until_it_ends(client, forked.id, stderr=True)
    if as_json:
        print_json(forked)
    if wait:
        exit_as(forked)


def _change(text: str) -> tuple[str, Any]:
    from api.cli.spec_file import read_data  # noqa: PLC0415 - see there

    key, sign, value = text.partition("=")
    if not sign or not key:
        raise click.BadParameter(f"{text!r} is not of the form KEY=VALUE", param_hint="--set")
    return key, value if key.startswith(_WORDS) else read_data(value.encode())
