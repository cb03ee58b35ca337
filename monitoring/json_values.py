"""Conversion of Python values to JSON and back.

JSON has no NaN and no infinity: they are written as the strings "NaN", "Infinity" and "-Infinity"
and read back as numbers. A string that looks like one of them is written with a backslash before
it, which is removed when it is read.
"""

from __future__ import annotations

import dataclasses
import math
from argparse import Namespace
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_ESCAPE = "\\"


def jsonable(value: Any) -> Any:  # noqa: PLR0911  one per kind
    """Convert a tree to types that JSON has; `restored` converts it back.

    Tensors and arrays become numbers and lists, namespaces and dataclasses dicts, enumerations
    their values, and anything else its text.
    """
    value = plain_number(value)
    kind = type(value)
    if value is None or kind in (int, bool):
        return value
    if kind is float:
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if kind is str:
        return _ESCAPE + value if value.lstrip(_ESCAPE) in _NON_FINITE else value
    if isinstance(value, Mapping):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    simple = simpler(value)
    return jsonable(str(value) if simple is value else simple)


def restored(value: Any) -> Any:
    """Convert the result of `jsonable` back: NaN, infinities and escaped strings."""
    kind = type(value)
    if kind is str:
        if value in _NON_FINITE:
            return _NON_FINITE[value]
        return value[1:] if value[:1] == _ESCAPE and value.lstrip(_ESCAPE) in _NON_FINITE else value
    if kind is list:
        return [restored(item) for item in value]
    if kind is dict:
        return {name: restored(item) for name, item in value.items()}
    return value


def plain_number(value: Any) -> Any:
    """Convert a tensor or a numpy value to a Python value; return any other value unchanged."""
    if type(value) in (float, int) or value is None or isinstance(value, str | bool):
        return value
    if hasattr(value, "tolist"):  # numpy and torch alike, scalars and arrays
        return value.tolist()
    return value


def simpler(value: Any) -> Any:
    """Convert a value to a simpler type; return it unchanged if there is none."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Namespace | SimpleNamespace):
        return vars(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for scalar in (int, float, complex, str, bytes):
        if isinstance(value, scalar) and type(value) is not scalar:
            return scalar(value)  # type: ignore[arg-type]
    return value
