"""Finds jobs and workers by an abbreviation of their id or name."""

from __future__ import annotations

import re

from api.client.client import Client
from api.schemas import JOB_ID

# An abbreviation is looked up among this many of the newest jobs.
_NEWEST = 1000


class NotOneFoundError(Exception):
    """No job or worker matches, or more than one does."""


def find_job(client: Client, text: str) -> str:
    """The job id `text`, or the only one of the newest jobs that starts or ends with it."""
    if re.fullmatch(JOB_ID, text):
        return text
    ids = [job.id for job in client.list(limit=_NEWEST)]
    return _only("job", text, ids)


def find_worker(client: Client, text: str) -> str:
    """The worker `text`, or the only one whose name starts or ends with it."""
    names = [worker.name for worker in client.workers()]
    return text if text in names else _only("worker", text, names)


def _only(kind: str, text: str, names: list[str]) -> str:
    found = [name for name in names if name.startswith(text) or name.endswith(text)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotOneFoundError(f"There is no {kind} {text!r}.")
    raise NotOneFoundError(f"{text!r} is ambiguous: {', '.join(found[:5])}.")
