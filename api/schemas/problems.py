"""Errors and health checks on the wire."""

from __future__ import annotations

from pydantic import Field

from api.schemas.base import Wire


class Health(Wire):
    """The result of a health check."""

    status: str = Field("ok", description="`ok`.")
    checks: dict[str, str] = Field(
        default_factory=dict, description="`ok` for each part that was checked."
    )


class FieldError(Wire):
    """Why one value was refused."""

    field: str = Field(description="Path of the field: `train.model.d_model`.")
    given: str = Field(description="The given value as JSON, shortened; `nothing` for none.")
    allowed: str = Field(description="What the field allows, in the words of the validator.")


class Problem(Wire):
    """An error (RFC 9457)."""

    type: str = Field("about:blank", description="Type of the problem; `about:blank`.")
    title: str = Field(description="Phrase of the HTTP status.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="What went wrong, and what to do, as a sentence.")
    errors: list[FieldError] | None = Field(None, description="Every field that was refused.")
    state: str | None = Field(None, description="State of the job that forbids the call.")
