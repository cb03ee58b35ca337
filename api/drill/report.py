"""What a drill found: a table of the interruptions' costs, and a sentence with the verdict."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from api.drill.comparison import Comparison
from api.schemas import JobView
from jobs.model.record import Attempt
from jobs.model.states import State

_SHOWN = 5  # differences of a kind that are shown, of how many there may be


@dataclass(frozen=True)
class Row:
    """One cost, of each interruption that has it."""

    name: str
    title: str
    values: list[float]
    unit: str = "s"
    none: str = "-"

    @property
    def p50(self) -> float | None:
        """The median."""
        return statistics.median(self.values) if self.values else None

    @property
    def largest(self) -> float | None:
        """The maximum."""
        return max(self.values, default=None)

    def cell(self, value: float | None) -> str:
        """A value for a person."""
        if value is None:
            return self.none
        return f"{value:.2f} {self.unit}" if self.unit else f"{value:g}"


def costs(attempts: list[Attempt], seconds: list[float]) -> list[Row]:
    """What the interruptions cost, by the receipts of the attempts, and from outside.

    Receipt n says how soon the loss of attempt n was noticed, receipt n + 1 what it took to go on.
    """
    ended, after = attempts[:-1], attempts[1:]
    return [
        Row("detect_seconds", "detection", _known(a.detect_seconds for a in ended),
            none="at once" if ended else "-"),
        Row("queue_seconds", "queue", _known(a.queue_seconds for a in after)),
        Row("restore_seconds", "restore", _known(a.restore_seconds for a in after)),
        Row("first_step_seconds", "first new step, from its claim",
            _known(a.first_step_seconds for a in after)),
        Row("outage_seconds", "all of it, seen through the API", seconds),
        Row("steps_recomputed", "steps computed twice",
            _known(a.steps_recomputed for a in after), unit=""),
    ]  # fmt: skip


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


@dataclass(frozen=True)
class Report:
    """A drill that was carried out."""

    signal: str
    target: str
    seed: int
    moments: list[int]
    lease_seconds: float | None
    untouched: JobView
    interrupted: JobView | None
    seconds: list[float]
    comparison: Comparison

    @property
    def passed(self) -> bool:
        """Whether both jobs succeeded, all interruptions came, and the runs are identical."""
        return self._failure is None

    @property
    def rows(self) -> list[Row]:
        """The table."""
        return costs(self.interrupted.attempts if self.interrupted else [], self.seconds)

    @property
    def verdict(self) -> str:
        """One sentence."""
        found = self.comparison
        if self._failure is not None:
            return f"Not shown: {self._failure}."
        return (
            f"Identical: interrupted {self._times}, the run has the same {found.rows} rows of "
            f"metrics, digit for digit, and the same {found.tensors} tensors in the checkpoint of "
            f"step {found.step}, bit for bit, as the run that nobody touched."
        )

    @property
    def _times(self) -> str:
        count = len(self.seconds)
        return "once" if count == 1 else f"{count} times"

    @property
    def _failure(self) -> str | None:
        for job in (self.untouched, self.interrupted):
            if job is not None and job.state is not State.SUCCEEDED:
                return f"job {job.id} {job.state} ({job.message or job.reason})"
        found = self.comparison
        if found.curve or found.weights:
            kinds = [k for k, d in (("curves", found.curve), ("weights", found.weights)) if d]
            return f"the {' and the '.join(kinds)} of the two runs differ"
        if len(self.seconds) < len(self.moments):
            return (
                f"only {len(self.seconds)} of {len(self.moments)} interruptions came before the "
                "end; ask for fewer, or take a longer job or one that saves more often"
            )
        return None if found.identical else "there was nothing to compare"

    def show(self, console: Console) -> None:
        """Prints table, differences and verdict."""
        interrupted = self.interrupted.attempts[:-1] if self.interrupted else []
        console.print("[bold]4.[/] What the interruptions cost")
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        count = len(self.seconds)
        table.add_column(f"{count} interruption{'' if count == 1 else 's'}", no_wrap=True)
        table.add_column("p50", justify="right")
        table.add_column("max", justify="right")
        for row in self.rows:
            table.add_row(row.title, row.cell(row.p50), row.cell(row.largest))
        console.print(table)
        if self.seconds and not interrupted:
            console.print("   No attempt ended: training went on meanwhile.")
        for found in (self.comparison.curve, self.comparison.weights):
            for line in found[:_SHOWN]:
                console.print(f"   {line}", style="red", markup=False)
            if len(found) > _SHOWN:
                console.print(f"   and {len(found) - _SHOWN} more")
        if self.comparison.rows:
            compared, ignored = self.comparison.metrics, self.comparison.ignored
            console.print(f"   Compared: {', '.join(compared)}; not {', '.join(ignored)}")
        console.print(self.verdict, style="bold green" if self.passed else "bold red")

    def as_json(self) -> str:
        """One line of JSON."""
        found = self.comparison
        jobs = [job for job in (self.untouched, self.interrupted) if job is not None]
        line: dict[str, Any] = {
            "drill": {"signal": self.signal, "target": self.target, "seed": self.seed,
                      "moments": self.moments, "lease_seconds": self.lease_seconds},
            "passed": self.passed,
            "verdict": self.verdict,
            "jobs": [{"id": job.id, "state": job.state, "attempts": job.attempt} for job in jobs],
            "interruptions": len(self.seconds),
            "costs": {row.name: {"p50": _rounded(row.p50), "max": _rounded(row.largest)}
                      for row in self.rows},
            "curve": {"rows": found.rows, "metrics": found.metrics, "ignored": found.ignored,
                      "differences": len(found.curve)},
            "weights": {"step": found.step, "tensors": found.tensors,
                        "differences": len(found.weights)},
        }  # fmt: skip
        return json.dumps(line)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
