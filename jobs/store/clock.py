"""The clock that all processes of the service share: the clock of Redis."""

from __future__ import annotations

from typing import Any


def redis_time(redis: Any) -> float:
    """Seconds since the epoch by the clock of Redis."""
    seconds, microseconds = redis.time()
    return float(seconds) + float(microseconds) / 1e6
