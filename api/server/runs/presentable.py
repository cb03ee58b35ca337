"""Values that other people's programs wrote, in a form that any answer can have."""

from __future__ import annotations

from typing import Any

from monitoring.json_values import jsonable

# Serialisers of JSON refuse values that are nested more deeply than some hundreds of times.
_DEEPEST = 100
_NUMBERS = frozenset({int, float})


def presentable(value: Any) -> Any:
    """A tree as `jsonable` has it, its texts without lone surrogates, which UTF-8 lacks.

    Raises `ValueError` for one that is nested too deeply.
    """
    try:
        return _checked(jsonable(value), 0)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _checked(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _NUMBERS:
        return value
    if kind is str:
        return value if value.isascii() else _text(value)
    if depth == _DEEPEST:
        raise ValueError("it is nested too deeply")
    if kind is dict:
        return {_checked(name, depth): _checked(item, depth + 1) for name, item in value.items()}
    if kind is list:
        return [_checked(item, depth + 1) for item in value]
    return value


def _text(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
