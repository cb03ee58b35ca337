"""Reads what Redis holds: hashes and entries of streams, as values."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from jobs.model.record import Job, job_from_hash

_PLAIN = frozenset({"type", "job", "by", "address"})
_LONGEST = 1000  # characters of details that are no JSON
log = logging.getLogger(__name__)


def readable(fields: Mapping[str, str]) -> Job | None:
    """The job; None with a warning for an unreadable record, which must not hide the others."""
    try:
        return job_from_hash(fields) if fields else None
    except ValidationError as error:
        log.warning("the record of job %s cannot be read: %s", fields.get("id"), error)
        return None


def event_of(entry: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """An entry of a stream of events; an odd one, which others wrote, hides none of the others."""
    return {
        "type": "unknown",
        **{name: text for name, text in fields.items() if name in _PLAIN},
        "id": entry,
        "at": _time(fields.get("at", ""), entry),
        "data": _details(fields.get("data", "")),
    }


def _time(text: str, entry: str) -> float:
    """The time of an event; that of its entry, which begins with milliseconds, if it has none."""
    with suppress(ValueError):
        if isfinite(at := float(text)):
            return at
    return int(entry.partition("-")[0]) / 1e3


def _details(text: str) -> dict[str, Any]:
    """The details of an event, as far as JSON has them."""
    try:
        found = from_json(text)
        to_json(found)  # fails for what no answer can have: nested too deeply, half a character
    except ValueError:
        found = text
    return found if isinstance(found, dict) else {"value": text[:_LONGEST]}
