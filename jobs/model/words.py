"""The words of a command: numbers become text, and another form is answered with the list meant."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Sequence

# The context in which a specification is validated when it is submitted. Without it, as when a
# record is read, it may be one that an earlier version has accepted.
SUBMITTED = {"submitted": True}

_SHORT = 300
_QUOTED = r"'[^']*'"
# What only a shell understands: outside of single quotes, and outside of all quotes.
_EXPANDED = re.compile(r"[$`]")
_SYNTAX = re.compile(r"[|&;<>()*?\n]|^\s*\w+=|(^|\s)~")


def as_text(value: object) -> object:
    """The text of a number, or of true and false as JSON writes them; anything else as it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    return value


def no_single_text(value: object) -> object:
    """The value; raises `ValueError` with the list that was meant for a text."""
    if isinstance(value, str):
        raise ValueError(_list_meant(value))
    return value


def no_single_script(value: object) -> object:
    """The value; raises `ValueError` for a text in place of a list of scripts."""
    if isinstance(value, str):
        raise ValueError("a list with an item for each command: `setup: [COMMAND, ...]`")
    return value


def no_pairs(value: object) -> object:
    """The value; raises `ValueError` for a list of `NAME=value`."""
    if isinstance(value, list):
        raise ValueError("variables by name: `env: {NAME: value}`")
    return value


def no_values(value: object) -> object:
    """The value; raises `ValueError` for secrets with their values."""
    if isinstance(value, dict):
        raise ValueError(
            "a list of names: `secrets: [NAME]`; the values are in the environment of the workers"
        )
    return value


def check_first_word(words: Sequence[str]) -> None:
    """Raises `ValueError` for a command whose first word is a whole command line."""
    first = words[0]
    if _has_space(first) and (len(words) == 1 or "/" not in first.split()[0]):
        raise ValueError(_list_meant(first, rest=words[1:]))


def check_options(words: Sequence[str]) -> None:
    """Raises `ValueError` for a single word that is an option and its value."""
    if len(words) == 1 and re.match(r"-[^\s=]*\s", words[0]):
        raise ValueError(_list_meant(words[0]))


def _has_space(word: str) -> bool:
    return word.split() not in ([word], [])


def _list_meant(text: str, rest: Sequence[str] = ()) -> str:
    """What to write in place of a command line."""
    if _is_script(text):
        script = _json(["bash", "-c", text])
        return f"a list of words; a shell script is `run` in place of `command`, or {script}"
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    return f"a list with an item for each word: {_json([*(words or ['python']), *rest])}"


def _json(words: Sequence[str]) -> str:
    text = json.dumps(words, ensure_ascii=False)
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


def _is_script(text: str) -> bool:
    """Whether a command line needs a shell."""
    bare = re.sub(_QUOTED, "''", text)
    unquoted = re.sub(r'"(\\.|[^"\\])*"', '""', bare)
    return _EXPANDED.search(bare) is not None or _SYNTAX.search(unquoted) is not None
