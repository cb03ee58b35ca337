"""Metrics of a run, one row per logged step, written before `log_metrics` returns."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monitoring import step_counter
from monitoring.files import write_atomically
from monitoring.metrics import rows
from monitoring.metrics.append_log import AppendLog
from monitoring.metrics.rows import RowFormat
from monitoring.paths import RunPaths

logger = logging.getLogger(__name__)

_TAIL = 1 << 16  # bytes from the end that are searched for the last row first
_LONGEST_TAIL = 1 << 24  # beyond which there is none


class MetricsLogger:
    """Logs metrics as JSON lines (`metrics_file`) and as text for people (`training_log`).

    Args:
        log_dir: directory of both files; created with the first row.
        log_interval: steps between rows; at least 1, else ValueError.
    """

    def __init__(self, log_dir: str | Path, log_interval: int = 10) -> None:
        if log_interval < 1:
            raise ValueError(f"log_interval must be at least 1, not {log_interval}")
        self.log_dir = Path(log_dir)
        paths = RunPaths(self.log_dir.parent)
        self.metrics_file = self.log_dir / paths.metrics.name
        self.training_log = self.log_dir / paths.training_log.name
        self._superseded = self.log_dir / paths.superseded_metrics.name
        self._resumes = self.log_dir / paths.resumes.name
        self.log_interval = log_interval
        self._rows = AppendLog(self.metrics_file)
        self._text = AppendLog(self.training_log)
        self._formats: dict[tuple[str, ...], RowFormat] = {}
        self._format = RowFormat(())
        self._next_second = 0.0
        self._clock = b""

    def should_log(self, step: int) -> bool:
        """Count the step as done, and return whether it is a multiple of `log_interval`.

        Step 0 is one. Raises ValueError for a step that is not a whole number.
        """
        if type(step) is not int:
            step = rows.whole(step)
        step_counter.beat(step)
        return step % self.log_interval == 0

    def log_metrics(self, step: int, metrics: Mapping[str, Any], flush: bool = True) -> None:
        """Count the step as done, and append a row to both files.

        Values may be numbers, tensors, numpy scalars, NaN or infinite. With `flush` the row
        survives the death of this process from now on, and a power failure after about a second.
        Without `flush` rows are written some kilobytes at a time. If the disk takes nothing, one
        warning is logged and rows wait in memory.

        Raises ValueError for a metric named `step` or `timestamp`, and for a step that is not a
        whole number.
        """
        if type(step) is not int:
            step = rows.whole(step)
        step_counter.beat(step)
        form = self._format
        if [*metrics] != form.names:  # nearly always those of the row before
            form = self._format = self._format_of(tuple(metrics))
        moment = time.time()
        if moment >= self._next_second:
            self._next_second = int(moment) + 1.0
            self._clock = _clock(moment)
        row, text = form.lines(step, moment, self._clock, tuple(metrics.values()))
        if flush:
            self._rows.append(row)
            self._text.append(text)
        else:
            self._rows.hold(row)
            self._text.hold(text)

    def _format_of(self, names: tuple[str, ...]) -> RowFormat:
        if names not in self._formats:
            self._formats[names] = RowFormat(names)
        return self._formats[names]

    def flush(self) -> None:
        """Write the rows that were logged with `flush=False`.

        If the files were moved or removed, later rows go to new files at once; without this call
        that takes about a second.
        """
        self._rows.flush()
        self._text.flush()

    def sync(self) -> None:
        """Write every row and wait for the disk; without a call, rows are synced every second."""
        self.flush()
        self._rows.sync()
        self._text.sync()

    def close(self) -> None:
        """Write every row, sync and close both files; the next row opens them again."""
        self._rows.close()
        self._text.close()

    def load_metrics(self) -> list[dict[str, Any]]:
        """Read every row, in the order of the file. Each invalid line is skipped with a warning.

        A row is a dict with `step`, `timestamp` (seconds since the epoch; text if another program
        wrote it so) and the metrics. Raises OSError.
        """
        self.flush()
        if not self.metrics_file.exists():
            return []
        found = []
        for number, row in rows.read(self.metrics_file):
            if isinstance(row, ValueError):
                logger.warning(
                    "%s line %d is invalid and skipped: %s", self.metrics_file, number, row
                )
            else:
                found.append(row)
        return found

    def get_latest_step(self) -> int:
        """Return the step of the last row, read from the end of the file; 0 if there is no row."""
        self.flush()
        return latest_step(self.metrics_file) or 0

    def get_metrics_summary(self) -> dict[str, Any]:
        """Summarize the log in a dict.

        It has `total_steps` (the number of rows), `first_step` and `last_step` (None without a
        row), and for each numeric metric `{name}_min`, `{name}_max`, `{name}_mean` (over its finite
        values; NaN if it has none) and `{name}_final`.
        """
        table = self.load_metrics()
        summary: dict[str, Any] = {
            "total_steps": len(table),
            "first_step": table[0]["step"] if table else None,
            "last_step": table[-1]["step"] if table else None,
        }
        columns: dict[str, list[float]] = {}
        for row in table:
            for name, value in row.items():
                if name not in rows.RESERVED and type(value) in (int, float):
                    columns.setdefault(name, []).append(value)
        for name, values in columns.items():
            finite = [value for value in values if math.isfinite(rows.real(value))] or [math.nan]
            summary[f"{name}_min"] = min(finite)
            summary[f"{name}_max"] = max(finite)
            summary[f"{name}_mean"] = math.fsum(finite) / len(finite)
            summary[f"{name}_final"] = values[-1]
        return summary

    def rewind(self, step: int, *, attempt: int | None = None) -> int:
        """Move the rows after `step` to `metrics.superseded.jsonl`; return how many there were.

        Call it after loading the checkpoint of `step`, or with -1 to start from the beginning: the
        steps that are computed again then give one curve. Invalid lines are moved too. If this
        process is killed, each row is in one of the files, and after the next call in only one.
        The resume is noted in `resumes.jsonl` with the number of the `attempt`, by default that of
        this process (`SPECTRAIN_ATTEMPT`).

        Raises OSError, and ValueError for a step that is not a whole number.
        """
        step = rows.whole(step)
        with self._rows.closed():
            return self._rewind(step, attempt)

    def _rewind(self, step: int, attempt: int | None) -> int:
        if not self.metrics_file.exists():
            return 0
        kept: list[bytes] = []
        superseded: list[bytes] = []
        with self.metrics_file.open("rb") as file:
            for line in file:
                (kept if _within(line, step) else superseded).append(_ended(line))
        moved, finished = self._moved_before(kept + superseded)
        # In this order: whenever a kill comes, each row is in one of the files.
        if superseded or not finished:
            write_atomically(self._superseded, b"".join(moved + superseded))
        if superseded:
            write_atomically(self.metrics_file, b"".join(kept))
        if kept or superseded:
            number = int(os.environ.get("SPECTRAIN_ATTEMPT") or 0) if attempt is None else attempt
            self._note_resume(step, number, len(superseded))
        return len(superseded)

    def _moved_before(self, here: list[bytes]) -> tuple[list[bytes], bool]:
        """The rows that earlier calls moved, and whether each of those calls finished.

        A call that was killed between the two files moved rows that are still here.
        """
        if not self._superseded.exists():
            return [], True
        with self._superseded.open("rb") as file:
            moved = [_ended(line) for line in file]
        if not moved or moved[-1] not in here:
            return moved, True
        still_here = set(here)
        while moved and moved[-1] in still_here:
            moved.pop()
        return moved, False

    def _note_resume(self, step: int, attempt: int, superseded: int) -> None:
        if attempt and not superseded and (step, attempt) == self._last_resume():
            return  # the service has rewound before the program does
        note = {"step": step, "timestamp": round(time.time(), 3), "attempt": attempt}
        resumes = AppendLog(self._resumes)
        resumes.append(json.dumps(note).encode() + b"\n")
        resumes.close()
        clock = _clock(time.time())
        self._text.append(
            b"%b resumed after step %d, %d rows superseded\n" % (clock, step, superseded)
        )

    def _last_resume(self) -> tuple[int, int] | None:
        """Step and attempt of the last resume."""
        try:
            note = json.loads(self._resumes.read_bytes().splitlines()[-1])
            return note["step"], note["attempt"]
        except (OSError, ValueError, LookupError, TypeError):
            return None


def latest_step(metrics_file: Path) -> int | None:
    """The step of the last valid row of a file; None if there is none."""
    try:
        file = metrics_file.open("rb")
    except FileNotFoundError:
        return None
    with file:
        size = file.seek(0, os.SEEK_END)
        span = _TAIL
        while True:
            start = max(0, size - span)
            file.seek(start)
            lines = file.read(size - start).split(b"\n")
            for line in reversed(lines if start == 0 else lines[1:]):
                try:
                    return int(rows.decode(line)["step"])
                except ValueError:
                    continue
            if start == 0 or span > _LONGEST_TAIL:
                return None
            span *= 8


def _clock(moment: float) -> bytes:
    """Local time to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)).encode()


def _ended(line: bytes) -> bytes:
    """The line, with a line end if it has none."""
    return line if line.endswith(b"\n") else line + b"\n"


def _within(line: bytes, step: int) -> bool:
    try:
        return bool(rows.decode(line)["step"] <= step)
    except ValueError:
        return False
