"""Samples what an attempt uses of its machine, as rows of `logs/system.csv`."""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from worker.files.logs.row_file import RowFile
from worker.gpu.health import GpuReading
from worker.usage.processes import usage_below

Row = Mapping[str, float | int | None]

TIME, STEP = "time", "step"
# Samples come each second at first, so that a short run has a curve, and less often later, so that
# the file of a long one stays small: 6 MB in 30 days.
_FIRST_SECONDS, _USUAL_SECONDS, _LAST_SECONDS = 1.0, 5.0, 30.0
_MINUTE, _SIX_HOURS = 60.0, 6 * 3600.0


class SystemSampler:
    """Adds a row to the `file` of a run whenever one is due; earlier attempts' rows stay.

    `guard` gives the id of the process above all those of the attempt, `step` its last step, `gpus`
    the last reading of each GPU, `disk_bytes` the size of the run's directory, which lies on the
    disk of `place`. A step that is not known yet is the `first_step`, where the attempt goes on.
    """

    def __init__(
        self,
        file: RowFile,
        place: Path,
        *,
        guard: Callable[[], int | None],
        step: Callable[[], int | None],
        gpus: Callable[[], Sequence[GpuReading]],
        disk_bytes: Callable[[], int],
        first_step: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._place = place
        self._guard = guard
        self._step = step
        self._gpus = gpus
        self._disk_bytes = disk_bytes
        self._first_step = first_step
        self._clock = clock
        self._begun = self._due = clock()
        self._cpu: tuple[int, float, float] | None = None  # of which guard, seconds, read when
        self._waiting: list[Row] = []  # until the rows of earlier attempts are here
        self._columns: tuple[str, ...] | None = None  # of the file
        file.at_end = self._flush

    def sample(self) -> None:
        """Adds a row if one is due; raises `OSError`."""
        now = self._clock()
        if now < self._due:
            return
        self._due = now + interval(now - self._begun)
        self._waiting.append(self._row(now))
        if self._file.is_ready:
            self._flush()

    def _row(self, now: float) -> Row:
        step, guard = self._step(), self._guard()
        percent, memory = self._processes(guard, now) if guard is not None else (None, None)
        row: dict[str, float | int | None] = {
            TIME: round(time.time(), 1),
            STEP: self._first_step if step is None else step,
            "cpu_percent": percent,
            "memory_bytes": memory,
            "disk_bytes": self._disk_bytes(),
            "disk_free_bytes": shutil.disk_usage(self._place).free,
        }
        for number, gpu in enumerate(self._gpus()):
            row[f"gpu{number}_percent"] = gpu.busy_percent
            row[f"gpu{number}_memory_bytes"] = gpu.used_bytes if gpu.total_bytes else None
            row[f"gpu{number}_celsius"] = gpu.celsius
            row[f"gpu{number}_watts"] = gpu.watts
        return row

    def _processes(self, guard: int, now: float) -> tuple[float | None, int | None]:
        """Percent of one processor since the last sample, and bytes of memory."""
        usage = usage_below(guard)
        before, self._cpu = self._cpu, (guard, usage.cpu_seconds, now)
        if not usage.memory_bytes:  # it has ended
            return None, None
        if before is None or before[0] != guard or now <= before[2]:
            return None, usage.memory_bytes
        used = max(0.0, usage.cpu_seconds - before[1])
        return round(100 * used / (now - before[2]), 1), usage.memory_bytes

    def _flush(self) -> None:
        """Writes the rows that wait; a column that the file lacks is added to all its rows."""
        rows, self._waiting = self._waiting, []
        if not rows:
            return
        try:
            if self._columns is None:
                header = self._file.read().partition(b"\n")[0].decode(errors="replace")
                self._columns = tuple(header.split(",")) if header else ()
            new = dict.fromkeys(name for row in rows for name in row if name not in self._columns)
            if new:
                known = list(csv.DictReader(io.StringIO(self._file.read().decode())))
                columns = (*self._columns, *new)
                self._file.replace(_text([dict(zip(columns, columns, strict=True)), *known],
                                         columns))  # fmt: skip
                self._columns = columns
            self._file.append(_text(rows, self._columns))
        except OSError:
            self._waiting = [*rows, *self._waiting]
            raise


def interval(age: float) -> float:
    """Seconds until the next sample of an attempt of this age, seconds."""
    if age < _MINUTE:
        return _FIRST_SECONDS
    return _USUAL_SECONDS if age < _SIX_HOURS else _LAST_SECONDS


def _text(rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> bytes:
    """Rows of a table; a value that is not known is empty."""
    file = io.StringIO()
    csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n").writerows(
        rows
    )
    return file.getvalue().encode()
