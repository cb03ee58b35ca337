"""Curves of a run as arrays, made from the lists that training loops keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One metric of a run over its steps."""

    name: str
    steps: Array
    values: Array

    @classmethod
    def until(cls, step: int, name: str, values: Array) -> Curve:
        """A curve whose values were taken at equal distances from step 0 to `step`."""
        return cls(name, np.linspace(0, step, len(values)), values)


class History:
    """A growing list as an array, of which only the new part is converted each time.

    So a plot of a million steps costs the loop what the steps since the last plot cost.
    """

    def __init__(self) -> None:
        self._array: Array = np.empty(1024)
        self._length = 0

    def update(self, values: Sequence[Any]) -> Array:
        """The list as an array, which later updates leave as it is; NaN for what is no number."""
        length = len(values)
        if not self._is_prefix_of(values):
            self._array, self._length = np.empty(1024), 0  # an earlier array may be in use
        if length > len(self._array):
            grown = np.empty(2 * length)
            grown[: self._length] = self._array[: self._length]
            self._array = grown
        self._array[self._length : length] = numbers(values[self._length :])
        self._length = length
        return self._array[:length]

    def _is_prefix_of(self, values: Sequence[Any]) -> bool:
        length = self._length
        if length > len(values):
            return False
        probes = {0, length // 2, length - 1} if length else ()
        found = [(number(values[probe]), self._array[probe]) for probe in probes]
        return all(new == old or (math.isnan(new) and math.isnan(old)) for new, old in found)


def numbers(values: Sequence[Any]) -> Array:
    """A sequence as an array, NaN for what is no number."""
    try:
        return np.asarray(values, dtype=np.float64).reshape(len(values))
    except (TypeError, ValueError):
        return np.array([number(value) for value in values], dtype=np.float64)


def number(value: Any) -> float:
    """A value as a float, NaN for what is no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
