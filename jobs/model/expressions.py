"""Expressions that find numbers in a program's output, for `progress` in a job.

A job comes from anybody, and the expressions of Python's `re` may take longer than a life for one
line. RE2 takes time in proportion to the line, whatever the expression, and refuses those that
would need too much memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import re2

STEP, TOTAL, LOSS = "step", "total", "loss"
_NUMBER = re.compile(r"[0-9]{1,18}")
_NOT_A_CURVE = ("timestamp",)
_LONGEST_NUMBER = 64
_OPTIONS = re2.Options()
_OPTIONS.log_errors = False


class Expression:
    """A regular expression with one group, which stands for a number. Raises `ValueError`."""

    def __init__(self, text: str) -> None:
        try:
            self._found = re2.compile(text.encode(), _OPTIONS)
        except re2.error as error:
            raise ValueError(f"{text!r} is no expression that RE2 reads: {_words(error)}") from None
        if self._found.groups != 1:
            raise ValueError(
                f"{text!r} has {self._found.groups or 'no'} groups; the number that it finds is in "
                "one: (…), and other brackets are (?:…)"
            )

    def number(self, line: bytes) -> float | None:
        """The number in a line; None if there is none. `nan` and `inf` are numbers."""
        found = self._found.search(line)
        text = found.group(1) if found else None
        if not text or len(text) > _LONGEST_NUMBER:
            return None
        try:
            return float(text.replace(b",", b""))  # a thousand may be written as 1,000
        except ValueError:
            return None


@dataclass(frozen=True)
class Expressions:
    """What to find in the lines of an output: the step, its number in all, and values by name."""

    step: Expression
    total: Expression | int | None
    values: Mapping[str, Expression]

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> Expressions:
        """The expressions of a job's `progress`; raises `ValueError` with a sentence."""
        if STEP not in texts:
            raise ValueError(f"progress needs `{STEP}`: a curve is over steps")
        if unfit := [name for name in texts if name in _NOT_A_CURVE]:
            raise ValueError(f"{unfit[0]!r} is the service's own; choose another name")
        return cls(
            Expression(texts[STEP]),
            _total(texts[TOTAL]) if TOTAL in texts else None,
            {name: Expression(text) for name, text in texts.items() if name not in {STEP, TOTAL}},
        )


def _total(text: str) -> Expression | int:
    return int(text) if _NUMBER.fullmatch(text) else Expression(text)


def _words(error: Any) -> str:
    """What RE2 says of an expression."""
    said = error.args[0] if error.args else error
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)
