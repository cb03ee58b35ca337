"""Measures reading a long metrics.jsonl, reduced to 2,000 points per metric."""

from __future__ import annotations

import json
import math
import random
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.report import PeakMemory, Report, options, timed
from monitoring.metrics.downsample import read_curves
from monitoring.metrics.logger import latest_step
from monitoring.metrics.rows import RowFormat

_POINTS = 2000


def main(argv: Sequence[str]) -> int:
    """Write a file as a run would and read it three times; return 1 if a limit is exceeded."""
    arguments = options("reader", rows=1_000_000).parse_args(argv)
    report = Report("reader", {"rows": arguments.rows, "points": _POINTS})
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "metrics.jsonl"
        _write(path, arguments.rows)
        report.setting["file_mb"] = round(path.stat().st_size / 2**20)
        peak = PeakMemory()
        curves = read_curves(path, _POINTS)
        report.add("memory while reading", "MiB", [peak.extra() / 2**20])
        assert all(len(series.steps) <= _POINTS for series in curves.values())
        seconds = [timed(lambda: read_curves(path, _POINTS)) / 1e3 for _ in range(3)]
        ends = [timed(lambda: latest_step(path)) for _ in range(9)]
        latest = report.add("latest step", "ms", ends)
        with path.open("rb") as file:
            report.add("json.loads of every line", "s", [timed(lambda: _load_all(file)) / 1e3])
    report.bar("seconds for all rows", report.add("read_curves", "s", seconds), 1.5)
    report.bar("ms for the latest step", latest, 5.0)
    report.bar("MiB of memory", report.rows[0]["median"], 64.0)
    return report.show(keep=arguments.keep)


def _load_all(lines: object) -> None:
    for line in lines:  # type: ignore[attr-defined]
        json.loads(line)


def _write(path: Path, rows: int) -> None:
    rng = random.Random(1)
    form = RowFormat(
        ("loss", "learning_rate", "grad_norm", "tokens_per_sec", "perplexity", "wave_ratio")
    )
    with path.open("wb") as file:
        for row in range(rows):
            loss = _float32(4 + 3 * math.exp(-row / 1e5) + rng.gauss(0, 0.1))
            values = (
                loss,
                1e-3 * (1 + math.cos(math.pi * row / rows)) / 2,
                _float32(rng.random()),
                1500 + 100 * rng.random(),
                math.exp(loss),
                _float32(0.5 + rng.random() / 100),
            )
            file.write(form.lines(row * 10, 1.7e9 + row / 10, b"", values)[0])


def _float32(value: float) -> float:
    """A value like that of `loss.item()`: a double with the digits of a float32."""
    number: float = struct.unpack("f", struct.pack("f", value))[0]
    return number
