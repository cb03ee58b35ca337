"""When the next job of a line starts, without I/O."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence


def seconds_until_start(
    free_in: Sequence[float | None], ahead: Sequence[float | None], more: int = 0
) -> float | None:
    """Seconds until a job starts that has these jobs ahead of it; None if that cannot be known.

    `free_in` are the seconds until each slot is free, `ahead` for how long each job ahead will run,
    in their order, and `more` the number of further jobs ahead, which take as long as those on
    average. None: not known. Any slot that gets free takes the first job of the line.
    """
    slots = [math.inf if seconds is None else max(0.0, seconds) for seconds in free_in]
    if not slots:
        return None
    heapq.heapify(slots)
    for seconds in ahead:
        heapq.heapreplace(slots, slots[0] + (math.inf if seconds is None else seconds))
    start = slots[0]
    if more:
        known = [seconds for seconds in ahead if seconds is not None]
        if not known:
            return None
        start += more * sum(known) / len(known) / len(slots)
    return start if math.isfinite(start) else None
