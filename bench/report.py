"""Reports of benchmarks: a table, a JSON line, and the result file."""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from monitoring.ids import get_git_hash
from monitoring.runs.environment import describe_hardware, describe_software

RESULTS = Path(__file__).parent / "results"


@dataclass
class Report:
    """Measures by name, each with its unit, and the limits (bars) that they must meet."""

    name: str
    setting: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    bars: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, measure: str, unit: str, values: Sequence[float]) -> float:
        """Add a measure with its values; return the median."""
        median = statistics.median(values)
        self.rows.append(
            {
                "measure": measure,
                "unit": unit,
                "median": median,
                "min": min(values),
                "max": max(values),
                "count": len(values),
            }
        )
        return median

    def bar(self, promise: str, value: float, limit: float) -> None:
        """Add a limit that a number must not exceed."""
        self.bars.append(
            {"promise": promise, "value": value, "limit": limit, "kept": value <= limit}
        )

    def show(self, *, keep: bool) -> int:
        """Print everything, write the result file if `keep`; return 0 if all limits are met."""
        width = max(len(row["measure"]) for row in self.rows)
        print(f"{self.name}   {self.setting}")
        print(f"{'':{width}}  {'median':>12} {'min':>12} {'max':>12}")
        for row in self.rows:
            numbers = " ".join(f"{row[key]:12.4g}" for key in ("median", "min", "max"))
            print(f"{row['measure']:{width}}  {numbers}  {row['unit']}")
        for bar in self.bars:
            verdict = "kept  " if bar["kept"] else "BROKEN"
            print(f"{verdict} {bar['promise']}: {bar['value']:.4g}, at most {bar['limit']:.4g}")
        for note in self.notes:
            print(note)
        document = {
            "benchmark": self.name,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "git_hash": get_git_hash(),
            "load_average": os.getloadavg(),
            "setting": self.setting,
            "hardware": {k: v for k, v in describe_hardware().items() if k != "hostname"},
            "software": {k: v for k, v in describe_software().items() if k != "packages"},
            "rows": self.rows,
            "bars": self.bars,
            "notes": self.notes,
        }
        line = json.dumps(document)
        print(line)
        if keep:
            RESULTS.mkdir(exist_ok=True)
            timestamp = datetime.now(UTC).strftime("%Y-%m-%d_%H%M%S")
            (RESULTS / f"{timestamp}_{self.name}.json").write_text(line + "\n")
        return 0 if all(bar["kept"] for bar in self.bars) else 1


def options(name: str, **numbers: float) -> argparse.ArgumentParser:
    """The argument parser of a benchmark: one option for each number, with its default."""
    parser = argparse.ArgumentParser(prog=f"python -m bench {name}")
    for option, default in numbers.items():
        parser.add_argument(f"--{option}", type=type(default), default=default)
    parser.add_argument("--keep", action="store_true", help=f"write the result to {RESULTS.name}/")
    return parser


def timed(call: Callable[[], object]) -> float:
    """The duration of a call in milliseconds."""
    start = perf_counter()
    call()
    return (perf_counter() - start) * 1e3


class PeakMemory:
    """The peak of the resident memory between two points, in bytes (Linux)."""

    def __init__(self) -> None:
        self.restart()
        self._before = self._read("VmRSS")

    def restart(self) -> None:
        """Resets the peak, but not the starting point."""
        Path("/proc/self/clear_refs").write_text("5")  # the kernel starts a new high-water mark

    def extra(self) -> int:
        """The peak minus the starting point."""
        return self._read("VmHWM") - self._before

    @staticmethod
    def _read(name: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"/proc/self/status has no {name}")
