"""Why values were refused: the path of each field, what was given, what is allowed.

What is allowed is read from the model's JSON schema, so that the sentence holds for every way of
getting a field wrong and cannot drift from the model.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from api.schema_words import KEY, Schema, describe, fields_at, schema_at
from api.schemas import FieldError

MAX_ERRORS = 100
_SHORT = 80


def field_errors(model: type[BaseModel], error: ValidationError) -> list[FieldError]:
    """What `error` says about input for `model`, at most `MAX_ERRORS` of it."""
    root = model.model_json_schema()
    return [_explain(root, item) for item in error.errors(include_url=False)[:MAX_ERRORS]]


def _explain(root: Schema, item: ErrorDetails) -> FieldError:
    location = item["loc"]
    given = "nothing" if item["type"] == "missing" else shorten(item["input"])
    if item["type"] == "extra_forbidden":
        allowed = _known_fields(root, location)
    elif item["type"] == "value_error":
        allowed = str(item["ctx"]["error"])
    else:
        schema = schema_at(root, location)
        allowed = item["msg"] if schema is None else describe(schema, root)
    return FieldError(field=_path(location), given=given, allowed=allowed)


def _known_fields(root: Schema, location: tuple[int | str, ...]) -> str:
    names = fields_at(root, location[:-1])
    near = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.7)
    if near:
        return f"no such field; did you mean {near[0]}?"
    return f"no such field; there are {', '.join(names)}" if names else "nothing"


def _path(location: Sequence[int | str]) -> str:
    """`train.model.d_model`, `command[2]`; a wrong key is named by itself."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != KEY:
            path += f".{part}" if path else part
    return _clip(path) if path else "(top level)"


def shorten(value: object) -> str:
    """The value as JSON, cut where it gets long."""
    return _clip(json.dumps(value, ensure_ascii=False, default=str))


def _clip(text: str) -> str:
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"
