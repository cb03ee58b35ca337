"""Who causes a change: the caller of the API, noted beside each event."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Actor:
    """An account and the address of its client; empty for changes that no call caused."""

    name: str = ""
    address: str = ""


NOBODY = Actor()
# Set for the time of a request. The scripts of the store read it, so that no method between has to
# pass on what it does not use.
ACTOR: ContextVar[Actor] = ContextVar("actor", default=NOBODY)
