"""Keeps secrets of the environment out of files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE", re.I)
_SHORTEST = 6  # characters; a shorter value would also hide harmless text
HIDDEN = "***"


def redact(tree: Any, environment: Mapping[str, str]) -> Any:
    """The same JSON tree with the value of every secret environment variable hidden."""
    secrets = {
        value
        for name, value in environment.items()
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST
    }
    if not secrets:
        return tree
    # Longest first: one secret may contain another.
    pattern = re.compile("|".join(map(re.escape, sorted(secrets, key=len, reverse=True))))
    return _replace(tree, pattern)


def _replace(tree: Any, pattern: re.Pattern[str]) -> Any:
    if isinstance(tree, str):
        return pattern.sub(HIDDEN, tree)
    if isinstance(tree, dict):
        return {_replace(name, pattern): _replace(item, pattern) for name, item in tree.items()}
    if isinstance(tree, list):
        return [_replace(item, pattern) for item in tree]
    return tree
