"""Decimal numbers in a text as float64: all of them approximately, and selected ones exactly.

Exact conversion of 17 digits needs integers of more than 64 bits and costs most of the time that
reading takes. As an integer and a power of ten a number comes out in a third of it: exact while
the integer has at most 53 bits and the power is one of the 23 that float64 holds (W. D. Clinger,
How to read floating point numbers accurately, 1990), else within `ERROR`. To find the smallest of
many numbers, only the few that are this close together have to be converted exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitoring.arrays import Array

ERROR = 2.0**-51  # relative, from three roundings: of the integer, of the power and of the result
_COMMA, _DOT, _MINUS, _PLUS, _ZERO = b",.-+0"
_POWERS = np.array([float(f"1e{exponent}") for exponent in range(281)])
_EXACT_POWERS = 22
_EXACT_INTEGERS = 2**53
_OVERFLOW = np.iinfo(np.int64).max  # the result for a longer integer


class Numbers:
    """Exact numbers in rows and columns: `values`."""

    def __init__(self, values: Array) -> None:
        self.values = values

    def exactly(self, rows: NDArray[Any], columns: NDArray[Any]) -> Array:
        """The values at these places with all their digits."""
        values: Array = self.values[rows, columns]
        return values


class Decimals(Numbers):
    """Numbers in a text, whose `values` are within ERROR.

    Args:
        text: the numbers row by row, a comma after each, and one for the e of an exponent.
        rows: how many rows there are.
        exponents: for each column whether its numbers have an exponent.

    Raises ValueError for a text that is not such a table, and for numbers of more than 18 digits
    or beyond 1e±280.
    """

    def __init__(self, text: bytes, rows: int, exponents: Sequence[bool]) -> None:
        characters = np.frombuffer(text, dtype=np.uint8)
        marks = np.flatnonzero((characters == _COMMA) | (characters == _DOT))
        is_comma = characters[marks] == _COMMA
        commas = np.flatnonzero(is_comma)
        signs = np.flatnonzero((characters == _MINUS) | (characters == _PLUS))
        if not (is_comma[1:] | is_comma[:-1]).all() or (characters[signs + 1] < _ZERO).any():
            raise ValueError("a number has two points, or a sign and no digit")
        integers = np.fromstring(text.translate(None, b"."), dtype=np.int64, sep=",")
        shape = (rows, len(exponents) + sum(exponents))
        if len(integers) != shape[0] * shape[1] or len(commas) != len(integers):
            raise ValueError("not as many numbers as places for them")
        integers = integers.reshape(shape)
        before = commas - 1  # of the first comma: the last mark, which is a comma too
        places = np.where(is_comma[before], 0, marks[commas] - marks[before] - 1).reshape(shape)

        # An exponent is a number of its own, right of the one that it belongs to.
        columns = np.arange(len(exponents)) + np.cumsum([0, *exponents[:-1]])
        scaled = np.flatnonzero(exponents)
        mantissas, powers = integers[:, columns], -places[:, columns]
        powers[:, scaled] += integers[:, columns[scaled] + 1]
        distance = np.abs(powers)
        if (integers == _OVERFLOW).any() or distance.max() >= len(_POWERS):
            raise ValueError("a number is too long or too far from 1")
        values = mantissas / _POWERS[np.maximum(-powers, 0)]
        if len(scaled):
            values *= _POWERS[np.maximum(powers, 0)]
        super().__init__(values)
        self._text = text
        self._unsure = (np.abs(mantissas) > _EXACT_INTEGERS) | (distance > _EXACT_POWERS)
        self._bounds = np.concatenate(([-1], marks[commas]))
        self._width = shape[1]
        self._first, self._last = columns, columns + np.asarray(exponents, dtype=np.int64)

    def exactly(self, rows: NDArray[Any], columns: NDArray[Any]) -> Array:
        """The values at these places with all their digits."""
        values = super().exactly(rows, columns)
        unsure = np.flatnonzero(self._unsure[rows, columns])
        rows, columns = rows[unsure] * self._width, columns[unsure]
        starts = self._bounds[rows + self._first[columns]] + 1
        stops = self._bounds[rows + self._last[columns] + 1]
        values[unsure] = [
            float(self._text[start:stop].replace(b",", b"e"))
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]
        return values
