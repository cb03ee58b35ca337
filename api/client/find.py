"""Finds jobs and workers by an abbreviation of their id or name."""

from __future__ import annotations

import re
import time

from api.client.client import Client
from api.client.transport import ClientError
from api.schemas import JOB_ID
from jobs.model.record import Job
from machine.text import duration

# An abbreviation is looked up among this many of the newest jobs.
_NEWEST = 1000
_SHOWN = 10


class NotOneFoundError(ClientError):
    """No job or worker matches, or more than one does."""


def is_id(text: str) -> bool:
    """Whether a text is a whole id of a job."""
    return re.fullmatch(JOB_ID, text) is not None


def find_jobs(client: Client, text: str) -> list[Job]:
    """The jobs that `text` may mean, newest first; raises `NotOneFoundError` if there is none.

    Those of that name, or else those of the newest jobs whose id starts or ends with it.
    """
    newest = client.list(limit=_NEWEST)
    found = [job for job in newest if job.id.startswith(text) or job.id.endswith(text)]
    found = [job for job in found if job.spec.name == text] or found
    if found := found or list(client.list(name=text, limit=_NEWEST)):
        return found
    raise NotOneFoundError(f"There is no job {text!r}.")


def find_job(client: Client, text: str) -> str:
    """The id of the only job that `text` means; raises `NotOneFoundError` with the candidates."""
    if is_id(text):
        return text
    found = find_jobs(client, text)
    if len(found) > 1:
        raise NotOneFoundError(_candidates(text, found))
    return found[0].id


def _candidates(text: str, jobs: list[Job]) -> str:
    now = time.time()
    rows = [
        (job.id, str(job.state), f"{duration(now - job.submitted_at)} old") for job in jobs[:_SHOWN]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["   ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    if len(jobs) > _SHOWN:
        lines.append(f"and {len(jobs) - _SHOWN} older ones")
    return "\n  ".join([f"{len(jobs)} jobs match {text!r}; give the id of one:", *lines])


def find_worker(client: Client, text: str) -> str:
    """The worker `text`, or the only one whose name starts or ends with it."""
    names = [worker.name for worker in client.workers()]
    if text in names:
        return text
    found = [name for name in names if name.startswith(text) or name.endswith(text)]
    if not found:
        raise NotOneFoundError(f"There is no worker {text!r}.")
    if len(found) > 1:
        raise NotOneFoundError(f"{text!r} is ambiguous: {', '.join(found[:5])}.")
    return found[0]
