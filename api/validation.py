"""Why values were refused, as the wire model has it."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import BaseModel, ValidationError

from api.schemas import FieldError
from workload.refusals import refusals


def field_errors(model: type[BaseModel], error: ValidationError) -> list[FieldError]:
    """What `error` says about input for `model`."""
    return [FieldError(**asdict(refusal)) for refusal in refusals(model, error)]
