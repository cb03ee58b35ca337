"""What the wire models have in common: their kinds, and the names of headers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

JOB_ID = r"[a-z0-9_-]{1,63}-[2-9b-df-hj-np-tv-xz]{8}"
SHA256 = r"[0-9a-f]{64}"
NEXT_OFFSET = "Spectrain-Next-Offset"
JOB_STATE = "Spectrain-Job-State"
IDEMPOTENCY_KEY = "Idempotency-Key"
INSTANCE = "Spectrain-Instance"


class Wire(BaseModel):
    """An older client ignores fields of a newer server."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


def _no_null(schema: dict[str, Any]) -> None:
    """Removes null from the schema: a query parameter is absent or has a value."""
    for name, field in schema.get("properties", {}).items():
        if field.get("default", ...) is None:
            (value,) = (part for part in field["anyOf"] if part != {"type": "null"})
            others = {k: v for k, v in field.items() if k not in {"anyOf", "default"}}
            schema["properties"][name] = {**value, **others}


class Query(BaseModel):
    """Query parameters; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_no_null)
