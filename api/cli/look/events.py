"""The commands `events` and `audit`: what has happened to jobs, and to the service."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click

from api.cli.base import cli
from api.cli.shared.endpoint import Endpoint
from api.cli.shared.which_job import id_to_see, job_to_see
from api.client.client import Client
from jobs.accounts.token import AuditEntry
from jobs.model.record import Event, JobEvent
from machine.text import plain

_POLL_SECONDS = 1.0
_PAGE = 200
_LONGEST = 200  # characters of a value

Entry = TypeVar("Entry", Event, AuditEntry)

newest_option = click.option(
    "--limit", "-n", type=click.IntRange(1, 1000), default=50, show_default=True,
    help="Begin with so many of the newest; the events of one job all come.",
)  # fmt: skip
json_lines = click.option("--json", "as_json", is_flag=True, help="Print each as a line of JSON.")


@cli.command()
@job_to_see(required=False, otherwise=" By default all jobs.")
@click.option("--follow", "-f", is_flag=True,
              help="Print new events until the job ends, or until Ctrl-C.")  # fmt: skip
@newest_option
@json_lines
@click.pass_obj
def events(endpoint: Endpoint, job: str | None, follow: bool, limit: int, as_json: bool) -> None:
    """Show the events of a job, or the newest ones of all jobs."""
    with endpoint.client(patient=follow) as client:
        if job is not None:
            found = _of_job(client, id_to_see(client, job), follow=follow)
            _print(found, kind="events", as_json=as_json)
            return

        def read(after: str | None) -> tuple[Sequence[Event], str | None]:
            page = client.all_events(after, limit=limit if after is None else _PAGE)
            return page.events, page.after

        _print(_newest(read, follow=follow), kind="events", as_json=as_json)


@cli.command()
@click.option("--follow", "-f", is_flag=True, help="Print new entries until Ctrl-C.")
@newest_option
@json_lines
@click.pass_obj
def audit(endpoint: Endpoint, follow: bool, limit: int, as_json: bool) -> None:
    """Show who changed what of the service, if you are an admin.

    These are logins, tokens and workers, each with the account and the address. Changes of jobs
    are their events.
    """
    with endpoint.client(patient=follow) as client:

        def read(after: str | None) -> tuple[Sequence[AuditEntry], str | None]:
            page = client.accounts.audit(after, limit=limit if after is None else _PAGE)
            return page.entries, page.after

        _print(_newest(read, follow=follow), kind="entries", as_json=as_json)


def _of_job(client: Client, job_id: str, *, follow: bool) -> Iterator[Event]:
    after: str | None = None
    while True:
        # The state before the events: all events of a job in a final state are there.
        is_last = not follow or client.get(job_id).state.is_final
        for event in client.events(job_id, after=after):
            yield event
            after = event.id
        if is_last:
            return
        time.sleep(_POLL_SECONDS)


def _newest(
    read: Callable[[str | None], tuple[Sequence[Entry], str | None]], *, follow: bool
) -> Iterator[Entry]:
    """The newest of a stream, and with `follow` those that come, which `read` reads after one."""
    found, after = read(None)
    yield from found
    while follow:
        time.sleep(_POLL_SECONDS)
        found, after = read(after or "0-0")
        yield from found


def _print(entries: Iterable[Event | AuditEntry], *, kind: str, as_json: bool) -> None:
    found = False
    for entry in entries:
        found = True
        click.echo(json.dumps(entry.model_dump(mode="json")) if as_json else _line(entry))
    if not found and not as_json:
        click.echo(f"No {kind} found.", err=True)


def _line(entry: Event | AuditEntry) -> str:
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at))
    job = f"  {entry.job}" if isinstance(entry, JobEvent) else ""
    return f"{clock}{job}  {entry.type}{_details(_data(entry))}"


def _data(entry: Event | AuditEntry) -> Mapping[str, Any]:
    """The details, and which account caused it from where, if accounts are told apart."""
    known = isinstance(entry, AuditEntry) or entry.by is not None
    return {**entry.data, "by": entry.by, "from": entry.address if known else None}


def _details(data: Mapping[str, Any]) -> str:
    """The details in one line: a text of a job may have several."""
    parts = []
    for name, value in data.items():
        if value in (None, "", {}, []):
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        line = " ".join(plain(text).split())
        short = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
        parts.append(f"{name}={short}")
    return "  " + "  ".join(parts) if parts else ""
