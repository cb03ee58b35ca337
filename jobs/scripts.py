"""The Lua scripts: every change of several keys is one of them."""

from __future__ import annotations

import json
from importlib import resources

from redis import Redis
from redis.commands.core import Script

from jobs.states import FINAL, MOVES


class Scripts:
    """Calls the scripts of `jobs/lua` by name; what they take and answer stands at their tops."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._loaded: dict[str, Script] = {}

    def __call__(self, name: str, *args: str | float) -> tuple[str, str]:
        """The script's {status, detail}."""
        status, detail = self._script(name)(args=[self._prefix, *args])
        return str(status), str(detail)

    def _script(self, name: str) -> Script:
        if name not in self._loaded:
            folder = resources.files("jobs") / "lua"
            moves = json.dumps({state: sorted(to) for state, to in MOVES.items()})
            final = json.dumps(dict.fromkeys(sorted(FINAL), True))
            text = "\n".join(
                [
                    f"local MOVES = cjson.decode('{moves}')",
                    f"local FINAL = cjson.decode('{final}')",
                    (folder / "prelude.lua").read_text(),
                    (folder / f"{name}.lua").read_text(),
                ]
            )
            self._loaded[name] = self._redis.register_script(text)
        return self._loaded[name]
