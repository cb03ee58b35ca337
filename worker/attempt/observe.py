"""The progress of a training process, by its step counter, its metrics file, or what is read."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path

from jobs.model.record import Progress
from jobs.model.spec import JobSpec, Limits
from monitoring import step_counter
from monitoring.files import open_file
from monitoring.metrics.rows import decode
from worker.attempt.outcome import StopReason
from worker.files.scratch import Restored, Scratch
from worker.progress.reader import Reading

# A step that is read may stand for many; one that takes this many times as long as the longest
# before it is late.
_LATE = 3.0
_MOST_BYTES = 64 << 20  # of new rows that are read at once: only the last ones matter


def restarted(scratch: Scratch, restored: Restored, *, undecided: bool = False) -> bool:
    """Whether the program counts its steps from 0 again although it had a later checkpoint.

    A single first step 0 may be a row that the program logs at every start: `undecided` is the
    answer until it counts its second step.
    """
    steps, start = step_counter.read_steps(scratch.steps), restored.checkpoint
    if steps is None or start is None or steps.first != 0 or start.step == 0:
        return False
    return undecided if steps.second is None else steps.second <= start.step


class Observer:
    """Reads the files in the child's scratch directory; never communicates with the child.

    `reading` gives what was read of a program that does not use the library.
    """

    def __init__(
        self,
        spec: JobSpec,
        scratch: Scratch,
        restored: Restored,
        claimed_at: float,
        reading: Callable[[], Reading] = Reading,
    ) -> None:
        self._spec = spec
        self._scratch = scratch
        self._restored = restored
        self._claimed_at = claimed_at  # time.monotonic, as in the step counter
        self._rows = _Tail(scratch.run.metrics)
        self._loss: float | None = None
        self._tokens_per_second: float | None = None
        self._signs = 0  # steps and heartbeats
        # The built-in workload always counts steps; another program does if it counts a first one.
        self._last_beat_at: float | None = time.monotonic() if spec.train else None
        self._diverged = False
        self._reading = reading
        self._read_signs = 0
        self._read_at: float | None = None  # time.monotonic of the last of them
        self._longest = 0.0  # seconds between two of them

    def progress(self) -> Progress:
        """The attempt's progress now."""
        for line in self._rows.new_lines():
            with contextlib.suppress(ValueError):  # a script may write rows of its own format
                self._take(decode(line))
        steps, reading = step_counter.read_steps(self._scratch.steps), self._reading()
        if (signs := step_counter.read_signs(self._scratch.steps)) != self._signs:
            self._signs = signs
            self._last_beat_at = time.monotonic()
        self._note_read(reading)
        start = self._restored.checkpoint
        step, total = steps.last if steps else reading.step, self._total(reading)
        return Progress(
            step=step,
            step_source=None if steps else reading.source,
            first_step=steps.first if steps else None,
            first_step_seconds=max(0.0, steps.first_at - self._claimed_at) if steps else None,
            step_seconds=max(0.0, steps.last_at - steps.first_at) if steps else None,
            resumed_from=start.step if start else None,
            resumed_checksum=start.checksum if start else None,
            steps_before=self._restored.last_step,
            total_steps=total,
            seconds_left=_seconds_left(steps, reading, total),
            loss=reading.loss if self._loss is None else self._loss,
            tokens_per_second=self._tokens_per_second,
        )

    def violation(self, limits: Limits, run_seconds: float) -> StopReason | None:
        """Why the attempt must be stopped, if it must; `run_seconds` is the job's run time."""
        if self._spec.restart == "from_checkpoint" and restarted(self._scratch, self._restored):
            return StopReason.RESTARTED
        if limits.stop_on_nan and (self._diverged or self._reading().diverged):
            return StopReason.DIVERGED
        if limits.run_seconds is not None and run_seconds > limits.run_seconds:
            return StopReason.TIMEOUT
        # A program that counts no step and gives no heartbeat cannot stall.
        still = 0.0 if self._last_beat_at is None else time.monotonic() - self._last_beat_at
        if limits.stall_seconds is not None and still > self._patience(limits.stall_seconds):
            return StopReason.STALL
        return None

    def _total(self, reading: Reading) -> int | None:
        """The steps of the whole run; of what is read, only what its own steps are part of."""
        if self._spec.train is not None:
            return self._spec.train.steps
        if (expected := step_counter.read_expected(self._scratch.steps)) is not None:
            return expected
        counts = step_counter.read_steps(self._scratch.steps) is not None
        return reading.total if not counts or reading.source == "output" else None

    def _note_read(self, reading: Reading) -> None:
        """Takes a step that was read for a sign of life.

        A program has named its steps with `progress`, or it counts some: only then can it stall.
        """
        if reading.signs == self._read_signs:
            return
        now, self._read_signs = time.monotonic(), reading.signs
        if self._read_at is not None:
            self._longest = max(self._longest, now - self._read_at)
        if self._last_beat_at is not None or (self._read_at is not None and self._spec.progress):
            self._last_beat_at = now
        self._read_at = now

    def _patience(self, stall_seconds: float) -> float:
        """How long the attempt may be without a sign of life, seconds."""
        return stall_seconds if self._signs else max(stall_seconds, _LATE * self._longest)

    def _take(self, row: dict[str, object]) -> None:
        loss, speed = row.get("loss"), row.get("tokens_per_sec")
        if isinstance(loss, float | int):
            self._diverged = self._diverged or not math.isfinite(loss)
            self._loss = float(loss)
        if isinstance(speed, float | int) and math.isfinite(speed):
            self._tokens_per_second = float(speed)


def _seconds_left(
    steps: step_counter.Steps | None, reading: Reading, total: int | None
) -> float | None:
    """Seconds to the last step at the pace so far; None if that is not known."""
    if total is None:
        return None
    if steps is None:
        if reading.step is None or reading.step_seconds is None:
            return None
        return max(0, total - reading.step) * reading.step_seconds
    made = steps.last - steps.first
    if made <= 0 or steps.last_at <= steps.first_at:
        return None
    return max(0, total - 1 - steps.last) * (steps.last_at - steps.first_at) / made


class _Tail:
    """The lines added to a file since the last read, without those it began with."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset = self._state()

    def new_lines(self) -> list[bytes]:
        """The complete new lines. A file that was replaced is read from its new end on."""
        inode, size = self._state()
        if inode != self._inode or size < self._offset:
            self._inode, self._offset = inode, size if self._inode else 0
        if size == self._offset:
            return []
        with open_file(self._path) as file:
            self._offset = max(self._offset, size - _MOST_BYTES)
            file.seek(self._offset)
            data = file.read(size - self._offset)
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        if not whole and len(data) == _MOST_BYTES:  # no row is so long
            self._offset = size
        return data[:whole].splitlines()

    def _state(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_ino, status.st_size
