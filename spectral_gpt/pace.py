"""How fast a run goes, across its interruptions."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Useful seconds, tokens per second and time left.

    Useful is what led to where the run is now: the time before the checkpoint it goes on from
    (`seconds_before`) and the time since; not what was computed after it and lost.
    """

    def __init__(
        self,
        tokens_per_step: int,
        first_step: int,
        seconds_before: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens_per_step = tokens_per_step
        self._first_step = first_step
        self._seconds_before = seconds_before
        self._clock = clock
        self._start = clock()
        self._lap = (first_step - 1, self._start)

    def seconds(self) -> float:
        """Useful seconds until now."""
        return self._seconds_before + self._clock() - self._start

    def tokens_per_second(self, step: int) -> float:
        """Mean over the steps since the last call, `step` included."""
        (last, then), now = self._lap, self._clock()
        self._lap = (step, now)
        return (step - last) * self._tokens_per_step / max(now - then, 1e-9)

    def time_left(self, step: int, steps: int) -> str:
        """m:ss until the last step, at this attempt's mean pace."""
        per_step = (self._clock() - self._start) / (step - self._first_step + 1)
        minutes, seconds = divmod(round(per_step * (steps - 1 - step)), 60)
        return f"{minutes}:{seconds:02}"
