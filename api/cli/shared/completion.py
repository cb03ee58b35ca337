"""Shell completion: of commands and options by click, and of the ids of jobs by the service."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from api.cli.shared.endpoint import endpoint_of
from api.client.client import Client

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_SPECTRAIN_COMPLETE"
# A person who presses Tab waits no longer than this, seconds.
_ANSWER_SECONDS = 1.5
_MOST = 200


class JobId(click.ParamType[str]):
    """The id of a job, or a part of one; completed by the newest jobs of the service."""

    name = "id"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """The ids of the newest jobs that begin like this; none if the service does not answer."""
        try:
            endpoint = endpoint_of(ctx.find_root())
            with Client(
                endpoint.url, endpoint.token or "", timeout=_ANSWER_SECONDS, patience=0
            ) as client:
                jobs = list(client.list(limit=_MOST))
        except Exception:  # whatever it is, it must not be printed into the line that is typed
            return []
        return [
            CompletionItem(job.id, help=str(job.state))
            for job in jobs
            if job.id.startswith(incomplete)
        ]


def script_of(command: click.Command, shell: str) -> str:
    """The script that a shell reads to complete the words of a command."""
    kind = get_completion_class(shell)
    if kind is None:
        raise ValueError(f"{shell} is none of {', '.join(SHELLS)}")
    return kind(command, {}, "spectrain", _VARIABLE).source()
