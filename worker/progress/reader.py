"""Reads the progress of one attempt from its output and its files, beside the supervisor."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jobs.model.expressions import Expressions
from jobs.model.record import StepSource
from jobs.model.spec import JobSpec
from monitoring.files import open_file
from monitoring.metrics.rows import decode
from worker.files.logs.row_file import RowFile
from worker.files.look import Look, Seen
from worker.files.scratch import Restored, Scratch
from worker.progress.curves import RunCurves
from worker.progress.points import Pace, Point, training_loss
from worker.progress.sources.metrics_csv import MetricsCsv
from worker.progress.sources.output import Output
from worker.progress.sources.tensorboard import TensorBoard
from worker.progress.sources.trainer_state import TrainerState

log = logging.getLogger(__name__)

_MOST_WAITING = 50_000  # points that wait for storage to give the rows of earlier attempts
_BEGINNING = 64 << 10  # bytes of the program's own metrics that are looked at
_LAST_SECONDS = 2.0  # to read what is left when the program has ended


@dataclass(frozen=True)
class Reading:
    """What was read of the attempt; `signs` counts the times that its step was another.

    `diverged`: the loss that the job has named was NaN or infinite.
    """

    source: StepSource | None = None
    step: int | None = None
    total: int | None = None
    loss: float | None = None
    step_seconds: float | None = None
    signs: int = 0
    diverged: bool = False


class _Source(Protocol):
    """One kind of source; what it knows is of this attempt alone."""

    @property
    def name(self) -> StepSource: ...
    @property
    def step(self) -> int | None: ...
    @property
    def total(self) -> int | None: ...
    @property
    def values(self) -> dict[str, float]: ...
    @property
    def pace(self) -> Pace: ...


class _FileSource(_Source, Protocol):
    """A source in files."""

    def takes(self, path: str) -> bool: ...
    def read(
        self, path: str, file: Path, seen: Seen, restored: Seen | None
    ) -> tuple[list[Point], bool]: ...


class ProgressReader:
    """Reads what is new with each `advance`; both methods raise `OSError`.

    A program that logs with the library says all that there is to say: then nothing is read.
    """

    def __init__(
        self,
        spec: JobSpec,
        scratch: Scratch,
        restored: Restored,
        file: RowFile,
        look: Callable[[], Look],
    ) -> None:
        self._metrics = scratch.run.metrics
        self._root = scratch.run.root
        self._restored = restored
        self._look = look
        self._file = file
        self._curves = RunCurves(file)
        self._output = _output_of(spec, scratch)
        self._files: Sequence[_FileSource] = (TrainerState(), MetricsCsv(), TensorBoard())
        self._looked: Look = {}
        self._unread: Look = {}  # the files of sources that have more than was read
        self._seen: Look = {}
        self._waiting: list[tuple[list[Point], int]] = []
        self._logs_itself = spec.train is not None
        self.reading = Reading()

    def skip_output(self) -> None:
        """Leaves out what was printed so far: it was not the program."""
        if self._output is not None:
            self._output.skip()

    def advance(self) -> None:
        """Reads some of what is new."""
        self._advance()

    def finish(self, look: Callable[[], Look]) -> None:
        """Reads what an ended program has left, as far as there is time."""
        until = time.monotonic() + _LAST_SECONDS
        self._file.at_end = self._write
        self._look = look
        while self._advance() and time.monotonic() < until:
            self._look = lambda: self._looked
        if self._output is not None:
            self._add(self._output.finish(), 0)
        self._tell()

    def _advance(self) -> bool:
        """Reads some of what is new; whether there is more."""
        self._logs_itself = self._logs_itself or _has_rows(self._metrics)
        if self._logs_itself:
            return False
        more = False
        self._write()
        if self._output is not None:
            points, more = self._output.read()
            if not self._is_full:
                self._add(points, 0)
        look = self._look()
        if look is not self._looked:
            self._looked = look
            found = {path: seen for path, seen in look.items() if self._rank(path) is not None}
            self._unread |= {p: seen for p, seen in found.items() if self._seen.get(p) != seen}
            self._seen = found
        # In the order of their times: the newest says last.
        for path in sorted(self._unread, key=lambda path: self._unread[path].modified_ns):
            if self._is_full:
                break  # it stays in its file
            more = self._read(path) or more
        self._tell()
        return more

    @property
    def _is_full(self) -> bool:
        """Whether storage has not answered for so long that no more points can wait for it."""
        return sum(len(points) for points, _ in self._waiting) > _MOST_WAITING

    def _rank(self, path: str) -> int | None:
        """The rank of the source that a path belongs to; 0 is the output's."""
        return next((n for n, one in enumerate(self._files, start=1) if one.takes(path)), None)

    def _read(self, path: str) -> bool:
        """Reads some of a file; whether there is more of it."""
        rank = self._rank(path)
        seen = self._unread.pop(path)
        if rank is None or seen.kind != "file":
            return False
        try:
            points, more = self._files[rank - 1].read(
                path, self._root / path, seen, self._restored.look.get(path)
            )
        except OSError:  # it is gone, or no file any more; if it changes, it is read again
            return False
        if more:
            self._unread[path] = seen
        self._add(points, rank)
        return more

    def _add(self, points: list[Point], rank: int) -> None:
        if points:
            self._waiting.append((points, rank))
        self._write()

    def _write(self) -> None:
        """Writes the points that were read, if the rows of earlier attempts are here."""
        while self._waiting and self._curves.is_ready:
            self._curves.add(*self._waiting[0])
            del self._waiting[0]

    def _tell(self) -> None:
        """Makes what was read known, if it is more than before."""
        sources: list[_Source] = [*([self._output] if self._output else []), *self._files]
        known = [one for one in sources if one.step is not None]
        if not known:
            return
        first = known[0]
        if first.name == "trainer_state":
            first = next((one for one in known[1:] if _is_ahead(one, known[0])), first)
        losses = (training_loss(one.values) for one in [first, *known])
        before = self.reading
        self.reading = Reading(
            source=first.name,
            step=first.step,
            total=known[0].total,
            loss=next((loss for loss in losses if loss is not None), None),
            step_seconds=first.pace.seconds,
            signs=before.signs + (first.step != before.step),
            diverged=self._output is not None and self._output.diverged,
        )


def _is_ahead(source: _Source, state: _Source) -> bool:
    """Whether a source tells how far a Trainer is since its last checkpoint."""
    if source.step is None or state.step is None or state.total is None:
        return False
    return state.step < source.step <= state.total


def _has_rows(metrics: Path) -> bool:
    """Whether a file begins with rows of the library; any program may have one of this name."""
    with contextlib.suppress(OSError), open_file(metrics) as file:
        for line in file.read(_BEGINNING).splitlines():
            with contextlib.suppress(ValueError):
                decode(line)
                return True
    return False


def _output_of(spec: JobSpec, scratch: Scratch) -> Output | None:
    if not spec.progress:
        return None
    try:
        return Output(scratch.output, Expressions.of(spec.progress))
    except ValueError as error:  # accepted by a service with another RE2
        log.warning("the output of %s is not read: %s", scratch.job_id, error)
        return None
