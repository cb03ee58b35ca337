"""The speed of a run, across its interruptions."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Useful seconds, tokens per second and time left.

    Useful is the time until the checkpoint that the run resumed from (`seconds_before`) and the
    time since the resume, without the steps after the checkpoint that were lost.
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
        """Return the useful seconds until now."""
        return self._seconds_before + self._clock() - self._start

    def tokens_per_second(self, step: int) -> float:
        """Return the mean over the steps since the last call, including `step`."""
        (last, then), now = self._lap, self._clock()
        self._lap = (step, now)
        return (step - last) * self._tokens_per_step / max(now - then, 1e-9)

    def time_left(self, step: int, steps: int) -> str:
        """Return the time until the last step as m:ss, at the mean speed of this attempt."""
        per_step = (self._clock() - self._start) / (step - self._first_step + 1)
        minutes, seconds = divmod(round(per_step * (steps - 1 - step)), 60)
        return f"{minutes}:{seconds:02}"
