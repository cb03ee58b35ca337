"""Which metrics tell of the clock: times and speeds, which differ between any two runs."""

from __future__ import annotations

import re

_CLOCK = re.compile(
    r"(^|[_./])(time|timestamp|elapsed|duration|seconds|secs|ms|eta|throughput|speed)($|[_./])"
    r"|_per_(s|sec|second)(_|$)"
)


def is_clock(name: str) -> bool:
    """Whether a metric of this name says nothing of whether two runs are the same."""
    return _CLOCK.search(name) is not None
