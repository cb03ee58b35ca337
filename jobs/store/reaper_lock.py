"""The lock that lets one reaper work at a time.

Each step is one script, and each gives the same answer twice: the client library sends a command
again when its answer was lost. (The lock of redis-py takes such an answer for a refusal.)
"""

from __future__ import annotations

from redis import Redis

from jobs.store.scripts import Scripts


class ReaperLock:
    """Held under `token`; expires `seconds` after the last `hold`."""

    def __init__(self, redis: Redis, prefix: str, token: str, seconds: float) -> None:
        self._run = Scripts(redis, prefix)
        self._token = token
        self._milliseconds = max(1, round(seconds * 1000))

    def hold(self) -> bool:
        """Takes or extends the lock; False while somebody else holds it."""
        return self._run("reaper/hold_lock", self._token, self._milliseconds)[0] == "ok"

    def release(self) -> None:
        """Releases the lock, so that another reaper can take it at once."""
        self._run("reaper/release_lock", self._token)
