"""Why values were refused, as the wire model has it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from pydantic import BaseModel, ValidationError

from api.schemas import FieldError
from workload.refusals import Refusal, refusals


def field_errors(model: type[BaseModel], error: ValidationError) -> list[FieldError]:
    """What `error` says about input for `model`."""
    return wire_errors(refusals(model, error))


def wire_errors(refused: Iterable[Refusal]) -> list[FieldError]:
    """Refusals as the wire model has them."""
    return [FieldError(**asdict(refusal)) for refusal in refused]
