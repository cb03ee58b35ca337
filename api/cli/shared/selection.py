"""Options that select jobs: of `ls`, `watch` and `cancel --all`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import click

from api.client.client import Client
from jobs.model.states import State

_OPTIONS = (
    click.option("--state", type=click.Choice([str(state) for state in State]),
                 help="Take jobs in this state."),
    click.option("--label", "labels", metavar="KEY:VALUE", multiple=True,
                 help="Take jobs with this label; may be repeated."),
    click.option("--pool", help="Take jobs of this pool."),
    click.option("--name", help="Take jobs with this name."),
    click.option("--mine", is_flag=True, help="Take your own jobs."),
)  # fmt: skip


def selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command."""
    return reduce(lambda inner, option: option(inner), reversed(_OPTIONS), command)


@dataclass(frozen=True)
class Selection:
    """Which jobs a command is about."""

    state: str | None
    query: dict[str, Any]  # the rest, as `Client.list` takes it

    @classmethod
    def of(
        cls, client: Client, *, state: str | None, labels: Sequence[str], mine: bool,
        **others: str | None,
    ) -> Selection:  # fmt: skip
        """The selection that the options make.

        Where nobody has to have a name, all jobs are everybody's own.
        """
        if bad := [label for label in labels if ":" not in label]:
            raise click.BadParameter(
                f"{bad[0]!r} is not of the form KEY:VALUE", param_hint="--label"
            )
        pairs = dict(label.split(":", 1) for label in labels)
        owner = client.accounts.me().name if mine else None
        return cls(state, {"labels": pairs, "owner": owner, **others})
