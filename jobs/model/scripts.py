"""Which words of a command a shell, or another interpreter, reads as a script."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class _Interpreter:
    """Its names, the option that comes before a script, and the options that take a value."""

    names: re.Pattern[str]
    script: re.Pattern[str]
    with_value: re.Pattern[str]


_SHELL = _Interpreter(
    re.compile(r"(ba|da|a|z|k|mk|fi|c|tc)?sh"),
    re.compile(r"[-+][A-Za-z]*c[A-Za-z]*"),
    re.compile(r"[-+][A-Za-z]*[oO]|--rcfile|--init-file"),
)
_INTERPRETERS = (
    _SHELL,
    _Interpreter(
        re.compile(r"(python|pypy)[\d.]*"),
        re.compile(r"-[A-Za-z]*c"),
        re.compile(r"-[A-Za-z]*[XW]|--check-hash-based-pycs"),
    ),
    _Interpreter(
        re.compile(r"perl|ruby|node|julia|Rscript|lua"),
        re.compile(r"-[A-Za-z]*[eE]|--eval"),
        re.compile(r"-[IrM]"),
    ),
)
# Programs that hand their words to a shell, or expand variables themselves.
_EXPANDING = re.compile(r"su|runuser|ssh|script|watch|parallel|envsubst|flock|tmux|screen|sbatch")


def shell_scripts(words: Sequence[str]) -> set[int]:
    """The indexes of the scripts of shells: of `… $X` in `["env", "bash", "-lc", "… $X"]`."""
    return set(_scripts(words, _SHELL))


def scripts(words: Sequence[str]) -> set[int]:
    """The indexes of all words in which something may be expanded that looks like a variable."""
    if words and _EXPANDING.fullmatch(_name(words[0])):
        return set(range(1, len(words)))
    return {index for each in _INTERPRETERS for index in _scripts(words, each)}


def _scripts(words: Sequence[str], interpreter: _Interpreter) -> Iterator[int]:
    for start, word in enumerate(words):
        if interpreter.names.fullmatch(_name(word)):
            index = start + 1
            while index < len(words) - 1 and words[index][:1] in {"-", "+"}:
                if interpreter.script.fullmatch(words[index]):
                    # Options may follow, as in `sh -c -e SCRIPT`, or take the next word.
                    yield from _after(words, index + 1)
                    break
                index += 2 if interpreter.with_value.fullmatch(words[index]) else 1


def _after(words: Sequence[str], index: int) -> Iterator[int]:
    """The first word from there that is no option."""
    while index < len(words) - 1 and re.fullmatch(r"[-+][A-Za-z]+", words[index]):
        index += 1
    yield index


def _name(word: str) -> str:
    return word.rpartition("/")[2]
