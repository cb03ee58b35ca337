"""The command `events`: what has happened to one job, or to all."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from api.cli.base import cli
from api.cli.shared.endpoint import Endpoint
from api.cli.shared.which_job import id_to_see, job_to_see
from api.client.client import Client
from jobs.model.record import Event, JobEvent
from machine.text import plain

_POLL_SECONDS = 1.0
_LONGEST = 200  # characters of a value


@cli.command()
@job_to_see(required=False, otherwise=" By default all jobs.")
@click.option("--follow", "-f", is_flag=True,
              help="Print new events until the job ends, or until Ctrl-C.")  # fmt: skip
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=50, show_default=True,
              help="Without ID, begin with so many of the newest events.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
@click.pass_obj
def events(endpoint: Endpoint, job: str | None, follow: bool, limit: int, as_json: bool) -> None:
    """Show the events of a job, or the newest ones of all jobs."""
    with endpoint.client(patient=follow) as client:
        found: Iterable[Event]
        if job is None:
            found = _of_all(client, limit, follow=follow)
        else:
            found = _of_job(client, id_to_see(client, job), follow=follow)
        for event in found:
            click.echo(json.dumps(event.model_dump(mode="json")) if as_json else _line(event))


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


def _of_all(client: Client, limit: int, *, follow: bool) -> Iterator[Event]:
    page = client.all_events(limit=limit)
    yield from page.events
    while follow:
        time.sleep(_POLL_SECONDS)
        page = client.all_events(after=page.after or "0-0")
        yield from page.events


def _line(event: Event) -> str:
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))
    job = f"  {event.job}" if isinstance(event, JobEvent) else ""
    return f"{clock}{job}  {event.type}{_details(_data(event))}"


def _data(event: Event) -> Mapping[str, Any]:
    """The details, and the account that caused it."""
    return {**event.data, "by": event.by}


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
