"""The step counter: the progress of a training process, readable by others even after its death.

The file that `SPECTRAIN_STEP_FILE` names holds eight little-endian 64-bit integers: the first
step done, the last step done, the number of beats, the times of the first and of the last beat in
nanoseconds of the machine's monotonic clock, which is never set, the second step done, the number
of heartbeats, and the number of steps of the whole run or 0. It is mapped into memory, so a beat
is a few stores and takes less than a microsecond, and the kernel keeps them when the process is
killed.

A heartbeat is a sign of life without a step, for work that takes longer than the job's
`limits.stall_seconds`: an evaluation, an export, a download.

    for batch in validation:
        evaluate(batch)
        monitoring.heartbeat()
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from monitoring.files import open_file

logger = logging.getLogger(__name__)

_LAYOUT = struct.Struct("<qqqqqqqq")
_OLDER_BYTES = (48, 56)  # the files of a library without heartbeats, or a number of steps
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

    def heartbeat(self) -> None:
        """Do nothing."""

    def expect(self, steps: int) -> None:
        """Do nothing."""


class StepCounter:
    """Writes the steps done to a memory-mapped file. Raises OSError if it cannot."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # Written, not only lengthened: a store into memory that the disk has no room for
            # would end the process (SIGBUS).
            size = os.fstat(descriptor).st_size
            if size < _LAYOUT.size:
                os.pwrite(descriptor, bytes(_LAYOUT.size - size), size)
            os.ftruncate(descriptor, _LAYOUT.size)
            self._epoch = mmap.mmap(descriptor, _LAYOUT.size)
        finally:
            os.close(descriptor)
        # A view of machine words stores each number whole: a reader never sees half of one.
        self._words = memoryview(self._epoch).cast("q")
        self._last: int | None = self._words[1] if self._words[2] else None

    def beat(self, step: int) -> None:
        """Count a step as done. The same step again is a heartbeat."""
        if step == self._last:
            self._words[6] += 1
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

    def heartbeat(self) -> None:
        """Count a sign of life, which is no step."""
        self._words[6] += 1

    def expect(self, steps: int) -> None:
        """Note the number of steps of the whole run."""
        self._words[7] = int(steps)


def read_signs(path: Path) -> int:
    """Read how many steps and heartbeats there were; 0 before the first."""
    words = _read(path)
    return words[2] + words[6] if words else 0


def read_steps(path: Path) -> Steps | None:
    """Read the steps done by the process that writes this file; None before its first step."""
    words = _read(path)
    if words is None:
        return None
    first, last, beats, first_at, last_at, second, *_ = words
    if not beats:
        return None
    return Steps(first, second if beats > 1 else None, last, beats, first_at / 1e9, last_at / 1e9)


def read_expected(path: Path) -> int | None:
    """Read how many steps the whole run has; None if the process has not said."""
    words = _read(path)
    return words[7] or None if words else None


def _read(path: Path) -> tuple[int, ...] | None:
    try:
        with open_file(path) as file:
            data = file.read(_LAYOUT.size + 1)
    except FileNotFoundError:
        return None
    if len(data) in _OLDER_BYTES:
        data = data.ljust(_LAYOUT.size, b"\0")
    return _LAYOUT.unpack(data) if len(data) == _LAYOUT.size else None


def _open(path: Path) -> StepCounter | NoCounter:
    try:
        return StepCounter(path)
    except OSError as error:
        logger.warning("Cannot count steps in %s: %s", path, error)
        return NoCounter()


_counter: StepCounter | NoCounter | None = None


def beat(step: int) -> None:
    """Count a step of this process as done; log one warning if the file cannot be written."""
    _opened().beat(step)


def heartbeat() -> None:
    """Tell the service that this process is alive, though it makes no step for a while.

    Call it now and then in work that may take longer than the job's `limits.stall_seconds`. Where
    no service runs this process, it does nothing.
    """
    _opened().heartbeat()


def expect(steps: int) -> None:
    """Tell the service how many steps the whole run has, so that it can say how long is left.

    Where no service runs this process, it does nothing.
    """
    _opened().expect(steps)


def _opened() -> StepCounter | NoCounter:
    # Opened at the first beat, not at import: a warm-started child gets its environment later.
    global _counter  # noqa: PLW0603
    if _counter is None:
        path = os.environ.get(VARIABLE)
        _counter = _open(Path(path)) if path else NoCounter()
    return _counter
