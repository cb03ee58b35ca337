"""References to variables of an attempt, `$(NAME)`, as Kubernetes writes them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from jobs.model.scripts import scripts

# The variables that a worker sets for each attempt.
ATTEMPT_VARIABLES = (
    "SPECTRAIN_JOB_ID",
    "SPECTRAIN_ATTEMPT",
    "SPECTRAIN_RESUMED",
    "SPECTRAIN_FORKED_FROM",
    "SPECTRAIN_RUN_DIR",
    "SPECTRAIN_OUTPUT_DIR",
    "SPECTRAIN_INPUTS",
    "SPECTRAIN_STEP_FILE",
    "SPECTRAIN_GRACE_SECONDS",
    "SPECTRAIN_DEVICE",
)
_PREFIX = "SPECTRAIN_"
# With the one that a job may set itself.
_KNOWN = (*ATTEMPT_VARIABLES, "SPECTRAIN_DETERMINISTIC")
_REFERENCE = re.compile(r"(\$+)\(([A-Za-z_][A-Za-z0-9_]*)\)")
_PLAIN = re.compile(r"\$\{?(SPECTRAIN_\w*)\}?")


# The kernel starts no program with a longer word or variable.
LONGEST = 131_071
_DEEPEST = 32


class ExpansionError(ValueError):
    """References that cannot be replaced; the message says why."""


class UnknownVariableError(ExpansionError):
    """A reference to a variable that the attempt does not have."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"neither the job nor its worker has a variable {name}: set it in `env`, or write "
            f"$$({name}) for the text $({name})"
        )


def expand(text: str, value_of: Callable[[str], str | None]) -> str:
    """The text with the value in place of each `$(NAME)`; a name without a value stays as it is.

    `$$` before a bracket stands for one `$`: `$$(NAME)` becomes `$(NAME)`. Values are not expanded
    again. Raises `ExpansionError` if the text becomes too long.
    """
    length = len(text)

    def value(found: re.Match[str]) -> str:
        dollars, name = found.groups()
        kept = "$" * (len(dollars) // 2)
        if len(dollars) % 2 == 0:
            return f"{kept}({name})"
        known = value_of(name)
        if known is None:
            return found[0]
        nonlocal length
        length += len(known)
        if length > LONGEST:
            raise ExpansionError(f"longer than {LONGEST:,} characters with the value of {name}")
        return kept + known

    return _REFERENCE.sub(value, text)


def references(text: str) -> Iterator[str]:
    """The names that a text refers to."""
    return (name for dollars, name in _REFERENCE.findall(text) if len(dollars) % 2)


def expand_command(words: Sequence[str], env: Mapping[str, str], own: Collection[str]) -> list[str]:
    """The words of a command with the variables of the attempt's environment.

    In a script, `$(date)` is the shell's own: only the variables that the job can know, those of
    the service and its `own`, are replaced there. Raises `ExpansionError`.
    """
    inside = scripts(words)

    def known(name: str) -> str | None:
        return env.get(name) if name in own or name in ATTEMPT_VARIABLES else None

    value_of = _required(env.get)
    return [expand(word, known if n in inside else value_of) for n, word in enumerate(words)]


def expand_variables(
    own: Mapping[str, str], beneath: Callable[[str], str | None]
) -> dict[str, str]:
    """A job's `own` variables, which may refer to each other and to those `beneath` them.

    A variable that refers to itself means the one beneath it: `PATH: /conda/bin:$(PATH)`. Raises
    `ExpansionError`.
    """
    values: dict[str, str] = {}

    def value_of(name: str, path: tuple[str, ...]) -> str | None:
        if name not in own or name == path[-1]:
            return beneath(name)
        if name in path:
            circle = " refers to ".join([*path[path.index(name) :], name])
            raise ExpansionError(f"{circle}: give one of them a value of its own")
        if len(path) > _DEEPEST:
            raise ExpansionError(f"{path[0]} refers to more than {_DEEPEST} variables in a row")
        if name not in values:
            values[name] = resolved(name, path)
        return values[name]

    def resolved(name: str, path: tuple[str, ...] = ()) -> str:
        inner = (*path, name)
        return expand(own[name], _required(lambda each: value_of(each, inner)))

    return {name: resolved(name) for name in own}


def check_command(words: Sequence[str]) -> None:
    """Raises `ValueError` if a word refers to a variable in a way that nobody understands."""
    inside = scripts(words)
    for number, word in enumerate(words):
        if number not in inside:
            _check_plain(word, f"item {number}")
        _check_names(word)


def check_variables(variables: Mapping[str, str]) -> None:
    """Raises `ValueError` for references that can have no value, whatever the worker has."""
    for name, text in variables.items():
        _check_plain(text, name)
        _check_names(text)
    expand_variables(variables, lambda _: "")


def _check_plain(text: str, where: str) -> None:
    if plain := _PLAIN.search(text):
        raise ValueError(
            f"write $({_meant(plain[1])}) in place of {plain[0]} in {where}: no shell expands it"
        )


def _check_names(text: str) -> None:
    for name in references(text):
        if name.startswith(_PREFIX) and name not in _KNOWN:
            raise ValueError(
                f"write $({_meant(name)}) in place of $({name}): there is no variable {name}; "
                f"or $$({name}) for the text itself"
            )


def check_script(text: str) -> None:
    """Raises `ValueError` if a shell script has `$(SPECTRAIN_…)`: a command, for a shell."""
    for name in references(text):
        if name.startswith(_PREFIX):
            raise ValueError(
                f"write ${_meant(name)} in place of $({name}), which a shell runs as a command"
            )


def _meant(name: str) -> str:
    """The variable of the service with the nearest name."""
    return difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0)[0]


def _required(value_of: Callable[[str], str | None]) -> Callable[[str], str]:
    def value(name: str) -> str:
        found = value_of(name)
        if found is None:
            raise UnknownVariableError(name)
        return found

    return value
