"""Jobs by an abbreviation of their id."""

from __future__ import annotations

import re

from api.client import Client
from api.wire import JOB_ID

# Nobody abbreviates the id of a job that long gone by.
_NEWEST = 1000


class NoSuchJobError(Exception):
    """No job, or more than one, has such an id."""


def find_job(client: Client, text: str) -> str:
    """The id that `text` is, or begins or ends alone among the newest jobs."""
    if re.fullmatch(JOB_ID, text):
        return text
    ids = [job.id for job in client.list(limit=_NEWEST)]
    found = [job_id for job_id in ids if job_id.startswith(text) or job_id.endswith(text)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise NoSuchJobError(f"There is no job {text!r}.")
    raise NoSuchJobError(f"{text!r} may be any of {', '.join(found[:5])}.")
