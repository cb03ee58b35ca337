"""Why a document was refused: the path of each field, what was given, what is allowed.

A model may have a table `ELSEWHERE`: what to write here in place of keys that people know from
other services.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

MAX_REFUSALS = 100
_SHORT = 80
# What pydantic puts behind the name of a key when the key itself is wrong.
_KEY = "[key]"


@dataclass(frozen=True)
class Refusal:
    """Why one value was refused."""

    field: str  # path, such as `train.model.d_model`
    given: str  # the value as JSON, shortened
    allowed: str  # the validator's own words

    def __str__(self) -> str:
        return f"{self.field}: given {self.given}, allowed: {self.allowed}"


def refusals(model: type[BaseModel], error: ValidationError) -> list[Refusal]:
    """What `error` says about a document for `model`, at most `MAX_REFUSALS`."""
    return [_refusal(model, item) for item in error.errors(include_url=False)[:MAX_REFUSALS]]


def shorten(value: object) -> str:
    """The value as JSON, cut where it gets long."""
    return _cut(json.dumps(value, ensure_ascii=False, default=str))


def _refusal(model: type[BaseModel], item: ErrorDetails) -> Refusal:
    location = item["loc"]
    given = "nothing" if item["type"] == "missing" else shorten(item["input"])
    match item["type"]:
        case "extra_forbidden":
            allowed = _known_fields(model, location)
        case "value_error":
            allowed = str(item["ctx"]["error"])
        case _:
            allowed = item["msg"].removeprefix("Input should be ")
    return Refusal(path_of(location), given, allowed)


def path_of(location: Sequence[int | str]) -> str:
    """`train.model.d_model`, `command[2]`; a wrong key is named by itself."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != _KEY:
            path += f".{part}" if path else part
    return _cut(path) if path else "(top level)"


def _known_fields(model: type[BaseModel], location: Sequence[int | str]) -> str:
    names: list[str] = []
    answers: Mapping[str, str] = {}
    for inner in _models(model, location[:-1]):
        names = list(inner.model_fields)
        answers = getattr(inner, "ELSEWHERE", {})
    if (answer := answers.get(str(location[-1]))) is not None:
        return answer
    near = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.7)
    if near:
        return f"unknown field; did you mean {near[0]}?"
    return f"unknown field; known are {', '.join(names)}" if names else "nothing"


def _models(model: type[BaseModel], location: Sequence[int | str]) -> Iterator[type[BaseModel]]:
    """The models along a path, the outermost first."""
    yield model
    if location:
        field = model.model_fields[str(location[0])]
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _models(kind, location[1:])


def _cut(text: str) -> str:
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"
