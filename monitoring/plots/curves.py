"""Curves of a run as arrays, converted from the lists of a training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitoring.arrays import Array

_PIECE = 10_000  # values converted at once; takes a quarter of a millisecond
_SMOOTHED = 16  # values; a shorter curve is not smoothed
_NOISE = 1e-3  # of the curve's range; smaller variation is not noise
_SPIKE = 12.0  # times the median distance from neighboring values
_ROUNDING = 2.0**-22  # of the values: two of float32's steps


@dataclass(frozen=True)
class Curve:
    """One metric of a run over its steps."""

    name: str
    steps: Array
    values: Array

    @classmethod
    def until(cls, step: int, name: str, values: Array) -> Curve:
        """A curve with values at equal distances from step 0 to `step`; a single one at `step`."""
        return cls(name, np.linspace(0 if len(values) > 1 else step, step, len(values)), values)


@dataclass(frozen=True)
class Resume:
    """The step after which a run was resumed, and the number of the attempt; 0 if unknown."""

    step: int
    attempt: int = 0


class History:
    """A growing list, of which each plot converts only the new part.

    The training loop copies that part. The plot thread converts it piece by piece, so even the
    first plot of a resumed run holds the interpreter lock for less than a millisecond.
    """

    def __init__(self) -> None:
        self._seen = _Seen()

    def update(self, values: Sequence[Any]) -> Callable[[], Array]:
        """Return a function that converts the list as it is now; non-numbers become NaN."""
        if not isinstance(values, list | tuple):
            array = numbers(values).copy()  # a deque may lose values at its other end
            return lambda: array
        if not _is_prefix_of(values, self._seen.values):
            self._seen = _Seen()
        new = values[len(self._seen.values) :]
        if self._seen.values:
            self._seen.values += new
        else:  # everything is new and already a copy
            self._seen.values = list(new) if isinstance(new, tuple) else new
        return partial(self._seen.until, len(self._seen.values))


class _Seen:
    """The known part of a list, and an array of its first values."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._array: Array = np.empty(0)

    def until(self, length: int) -> Array:
        """The first values as an array that does not change."""
        known = self._array  # read once: the thread of a closed client may run here too
        if length <= len(known):
            return known[:length]
        starts = range(len(known), length, _PIECE)
        new = [numbers(self.values[start : min(start + _PIECE, length)]) for start in starts]
        self._array = np.concatenate((known, *new))
        return self._array


def _is_prefix_of(values: Sequence[Any], seen: Sequence[Any]) -> bool:
    """Whether the list still begins with the known part; compares three values."""
    if len(seen) > len(values):
        return False
    probes = {0, len(seen) // 2, len(seen) - 1} if seen else ()
    found = [(number(values[probe]), number(seen[probe])) for probe in probes]
    return all(new == old or (math.isnan(new) and math.isnan(old)) for new, old in found)


def numbers(values: Sequence[Any]) -> Array:
    """Convert a sequence to an array; what is not a number becomes NaN. Raises TypeError."""
    length = len(values)
    if hasattr(values, "detach"):
        values = values.detach().double().cpu().numpy()
    try:
        return np.asarray(values, dtype=np.float64).reshape(length)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return np.array([number(value) for value in values], dtype=np.float64)


def number(value: Any) -> float:
    """Convert a value to a float; NaN if it is not a number."""
    try:
        return float(value.detach() if hasattr(value, "detach") else value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def flat(low: float, high: float) -> bool:
    """Whether all values between these are equal up to rounding."""
    return high / 2 - low / 2 <= _ROUNDING * (max(abs(low), abs(high)) / 2)


def smooth(values: Array) -> Array:
    """The moving mean, over a window that grows with the curve and narrows at its ends.

    NaN, infinities and spikes are left out. A curve without noise, or constant up to rounding, is
    returned unchanged.
    """
    finite = np.isfinite(values)
    known = values[finite]
    if known.size < _SMOOTHED or flat(low := float(known.min()), high := float(known.max())):
        return values
    if np.median(np.abs(np.diff(known, 2))) < _NOISE * (high - low):
        return values
    finite[finite] = ~_spikes(known)
    index = np.arange(len(values))
    widest = max(4, len(values) // 120)
    reach = np.clip(np.minimum(index, index[::-1]), widest // 4, widest)
    first, last = np.maximum(index - reach, 0), np.minimum(index + reach, index[-1]) + 1
    for _ in range(2):  # a mean of means has no corners
        total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
        count = np.concatenate([[0], np.cumsum(finite)])
        seen = count[last] - count[first]
        values = (total[last] - total[first]) / np.where(seen == 0, np.nan, seen)
        finite = np.isfinite(values)
    return values


def _spikes(known: Array) -> NDArray[np.bool_]:
    """Which values differ far more than usual from the median of the five around them."""
    around = np.lib.stride_tricks.sliding_window_view(np.pad(known, 2, mode="reflect"), 5)
    distance = np.abs(known - np.median(around, axis=1))
    usual = distance[distance > 0]
    return np.asarray(distance > (_SPIKE * np.median(usual) if usual.size else np.inf))
