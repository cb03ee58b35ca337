"""Keys that a JSON text gives twice: a parser keeps the last value and loses the others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from workload.refusals import Refusal, path_of


class _Object(dict[str, Any]):
    """A parsed object that knows how often each key was there."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.counts = Counter(key for key, _ in pairs)


def repeated_keys(text: bytes | str) -> list[Refusal]:
    """One refusal for each key that an object of `text` has twice; raises ValueError.

    `text` must be JSON that is not nested too deeply for the parser.
    """
    return list(_repeated(json.loads(text, object_pairs_hook=_Object), ()))


def _repeated(value: Any, path: tuple[int | str, ...]) -> Iterator[Refusal]:
    if isinstance(value, _Object):
        for key, count in value.counts.items():
            if count > 1:
                yield Refusal(path_of((*path, key)), f"{count} values", "one value")
            yield from _repeated(value[key], (*path, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _repeated(item, (*path, position))
