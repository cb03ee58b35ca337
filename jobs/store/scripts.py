"""Loads and calls the Lua scripts: each change of several keys is one script."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources

from redis import Redis
from redis.commands.core import Script

from jobs.actor import ACTOR
from jobs.model.states import FINAL, MOVES, State

# What each script begins with.
_PARTS = ("prelude.lua", "queue.lua", "ranking.lua", "moves.lua")


class Scripts:
    """Calls the scripts in `lua/` by path, such as `attempts/claim`.

    The comment at the top of each script describes its arguments and answers.
    """

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._loaded: dict[str, Script] = {}

    def __call__(self, name: str, *args: str | float) -> tuple[str, str]:
        """Runs a script; returns its {status, detail}."""
        actor = ACTOR.get()
        status, detail = self._script(name)(args=[self._prefix, *args, actor.name, actor.address])
        return str(status), str(detail)

    def _script(self, name: str) -> Script:
        if name not in self._loaded:
            folder = resources.files("jobs.store") / "lua"
            moves = (f"{state} = {_names(sorted(to))}" for state, to in MOVES.items())
            final = (f"{state} = true" for state in sorted(FINAL))
            text = "\n".join(
                [
                    f"local MOVES = {{{', '.join(moves)}}}",
                    f"local FINAL = {{{', '.join(final)}}}",
                    *((folder / part).read_text() for part in _PARTS),
                    (folder / f"{name}.lua").read_text(),
                ]
            )
            self._loaded[name] = self._redis.register_script(text)
        return self._loaded[name]


def _names(states: Iterable[State]) -> str:
    """A Lua table of the names."""
    return "{" + ", ".join(f"'{state}'" for state in states) + "}"
