"""The progress of a training process, read from its step counter and its metrics file."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path

from jobs.model.record import Progress
from jobs.model.spec import JobSpec, Limits
from monitoring import step_counter
from monitoring.metrics.rows import decode
from worker.attempt.outcome import StopReason
from worker.files.scratch import Restored, Scratch


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
    """Reads the files in the child's scratch directory; never communicates with the child."""

    def __init__(
        self, spec: JobSpec, scratch: Scratch, restored: Restored, claimed_at: float
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

    def progress(self) -> Progress:
        """The attempt's progress now."""
        for line in self._rows.new_lines():
            with contextlib.suppress(ValueError):  # a script may write rows of its own format
                self._take(decode(line))
        steps = step_counter.read_steps(self._scratch.steps)
        if (signs := step_counter.read_signs(self._scratch.steps)) != self._signs:
            self._signs = signs
            self._last_beat_at = time.monotonic()
        start = self._restored.checkpoint
        return Progress(
            step=steps.last if steps else None,
            first_step=steps.first if steps else None,
            first_step_seconds=max(0.0, steps.first_at - self._claimed_at) if steps else None,
            step_seconds=max(0.0, steps.last_at - steps.first_at) if steps else None,
            resumed_from=start.step if start else None,
            resumed_checksum=start.checksum if start else None,
            steps_before=self._restored.last_step,
            total_steps=self._spec.train.steps if self._spec.train else None,
            loss=self._loss,
            tokens_per_second=self._tokens_per_second,
        )

    def violation(self, limits: Limits, run_seconds: float) -> StopReason | None:
        """Why the attempt must be stopped, if it must; `run_seconds` is the job's run time."""
        if self._spec.restart == "from_checkpoint" and restarted(self._scratch, self._restored):
            return StopReason.RESTARTED
        if limits.stop_on_nan and self._diverged:
            return StopReason.DIVERGED
        if limits.run_seconds is not None and run_seconds > limits.run_seconds:
            return StopReason.TIMEOUT
        # A program that counts no step and gives no heartbeat cannot stall.
        still = 0.0 if self._last_beat_at is None else time.monotonic() - self._last_beat_at
        if limits.stall_seconds is not None and still > limits.stall_seconds:
            return StopReason.STALL
        return None

    def _take(self, row: dict[str, object]) -> None:
        loss, speed = row.get("loss"), row.get("tokens_per_sec")
        if isinstance(loss, float | int):
            self._diverged = self._diverged or not math.isfinite(loss)
            self._loss = float(loss)
        if isinstance(speed, float | int) and math.isfinite(speed):
            self._tokens_per_second = float(speed)


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
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read(size - self._offset)
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        return data[:whole].splitlines()

    def _state(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_ino, status.st_size
