"""Reads what Redis holds: hashes and entries of streams, as values."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from jobs.model.record import Job, job_from_hash

log = logging.getLogger(__name__)


def readable(fields: Mapping[str, str]) -> Job | None:
    """The job; None with a warning for an unreadable record, which must not hide the others."""
    try:
        return job_from_hash(fields) if fields else None
    except ValidationError as error:
        log.warning("the record of job %s cannot be read: %s", fields.get("id"), error)
        return None


def event_of(entry: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """An entry of a stream of events."""
    return {**fields, "id": entry, "at": float(fields["at"]), "data": json.loads(fields["data"])}
