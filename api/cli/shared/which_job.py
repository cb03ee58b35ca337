"""Which job a command is about, where it is given by its name or a part of its id.

A command that looks at a job takes the newest, and says so. One that changes something asks for
the id if several match.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from api.cli.shared.completion import JobId
from api.client.client import Client
from api.client.find import find_job, find_jobs, is_id

_SEEN = "The job's id, its name, or a part of its id; of several jobs the newest."
_CHANGED = "The job's id; or its name or a part of its id, if no other recent job matches."

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def job_to_see(*, required: bool = True, otherwise: str = "") -> Decorator:
    """The argument of a command that looks at a job; `otherwise`: what it does without one."""
    return _argument(required, _SEEN + otherwise)


def job_to_change(*, required: bool = True) -> Decorator:
    """The argument of a command that changes a job, or makes another one of it."""
    return _argument(required, _CHANGED)


def _argument(required: bool, help_text: str) -> Decorator:
    metavar = "ID" if required else "[ID]"
    return click.argument("job", metavar=metavar, type=JobId(), required=required, help=help_text)


def id_to_see(client: Client, text: str) -> str:
    """The id of the newest job that a text means; says so if there are others."""
    if is_id(text):
        return text
    newest, *others = find_jobs(client, text)
    if others:
        click.echo(
            f"{len(others) + 1} jobs match {text!r}; this is the newest, {newest.id}.", err=True
        )
    return newest.id


def ids_to_see(client: Client, texts: tuple[str, ...]) -> list[str]:
    """The ids of several jobs; a name that means one of the others is no second job."""
    ids = [id_to_see(client, text) for text in texts]
    for text, job_id in zip(texts, ids, strict=True):
        if ids.count(job_id) > 1 and text != job_id:
            find_job(client, text)  # raises if it means several
    return ids


id_to_change = find_job
