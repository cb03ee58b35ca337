"""The step counter: the progress of a training process, readable by others even after its death.

The file that `SPECTRAIN_STEP_FILE` names holds six little-endian 64-bit integers: the first
step done, the last step done, the number of beats, the times of the first and of the last beat in
nanoseconds of the machine's monotonic clock, which is never set, and the second step done. It is
mapped into memory, so a beat is a few stores and takes less than a microsecond, and the kernel
keeps them when the process is killed.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

_LAYOUT = struct.Struct("<qqqqqq")
VARIABLE = "SPECTRAIN_STEP_FILE"


@dataclass(frozen=True)
class Steps:
    """The steps that a process has done, and when (in seconds of `time.monotonic`).

    `second` is the step after the first, None until then: a program may count a step 0 at its
    start and then resume from its checkpoint.
    """

    first: int
    second: int | None
    last: int
    beats: int
    first_at: float
    last_at: float


class NoCounter:
    """Counts nothing: `SPECTRAIN_STEP_FILE` is not set."""

    def beat(self, step: int) -> None:
        """Do nothing."""


class StepCounter:
    """Writes the steps done to a memory-mapped file. Raises OSError if it cannot."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # Written, not only lengthened: a store into memory that the disk has no room for
            # would end the process (SIGBUS).
            os.pwrite(
                descriptor, os.pread(descriptor, _LAYOUT.size, 0).ljust(_LAYOUT.size, b"\0"), 0
            )
            os.ftruncate(descriptor, _LAYOUT.size)
            self._epoch = mmap.mmap(descriptor, _LAYOUT.size)
        finally:
            os.close(descriptor)
        # A view of machine words stores each number whole: a reader never sees half of one.
        self._words = memoryview(self._epoch).cast("q")
        self._last: int | None = self._words[1] if self._words[2] else None

    def beat(self, step: int) -> None:
        """Count a step as done. The same step again does not count."""
        if step == self._last:
            return
        step = int(step)
        words, now = self._words, time.monotonic_ns()
        if self._last is None:
            words[0] = step
            words[3] = now
        elif words[2] == 1:
            words[5] = step
        words[1] = step
        words[4] = now
        words[2] += 1
        self._last = step


def read_steps(path: Path) -> Steps | None:
    """Read the steps done by the process that writes this file; None before its first step."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) != _LAYOUT.size:
        return None
    first, last, beats, first_at, last_at, second = _LAYOUT.unpack(data)
    if not beats:
        return None
    return Steps(first, second if beats > 1 else None, last, beats, first_at / 1e9, last_at / 1e9)


def _open(path: Path) -> StepCounter | NoCounter:
    try:
        return StepCounter(path)
    except OSError as error:
        logger.warning("Cannot count steps in %s: %s", path, error)
        return NoCounter()


_counter: StepCounter | NoCounter | None = None


def beat(step: int) -> None:
    """Count a step of this process as done; log one warning if the file cannot be written."""
    # Opened at the first beat, not at import: a warm-started child gets its environment later.
    global _counter  # noqa: PLW0603
    if _counter is None:
        path = os.environ.get(VARIABLE)
        _counter = _open(Path(path)) if path else NoCounter()
    _counter.beat(step)
