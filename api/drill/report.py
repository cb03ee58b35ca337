"""The report of a drill: the cost of each interruption, and a verdict."""

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
from api.render import heading
from api.schemas import JobView
from jobs.model.record import Attempt, Verdict
from jobs.model.states import State

_SHOWN = 5  # of each kind of difference


@dataclass(frozen=True)
class Row:
    """One kind of cost, with a value for each interruption that has it."""

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
        """The value as text, with its unit."""
        if value is None:
            return self.none
        return f"{value:.2f} {self.unit}" if self.unit else f"{value:g}"


def costs(attempts: list[Attempt], seconds: list[float]) -> list[Row]:
    """The costs of the interruptions: from the receipts of the attempts, and seen through the API.

    Receipt n tells how soon the end of attempt n was detected, receipt n + 1 how long it took to
    resume.
    """
    ended, after = attempts[:-1], attempts[1:]
    return [
        Row("detect_seconds", "detection", _known(a.detect_seconds for a in ended),
            none="at once" if ended else "-"),
        Row("queue_seconds", "queue", _known(a.queue_seconds for a in after)),
        Row("restore_seconds", "restore", _known(a.restore_seconds for a in after)),
        Row("first_step_seconds", "claim to first new step",
            _known(a.first_step_seconds for a in after)),
        Row("outage_seconds", "total, seen through the API", seconds),
        Row("steps_recomputed", "steps computed twice",
            _known(a.steps_recomputed for a in after), unit=""),
    ]  # fmt: skip


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


@dataclass(frozen=True)
class Report:
    """A completed drill."""

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
        """Whether both jobs succeeded, every interruption took place and the runs are equal."""
        return self._failure is None

    @property
    def rows(self) -> list[Row]:
        """The rows of the table."""
        return costs(self.interrupted.attempts if self.interrupted else [], self.seconds)

    @property
    def verdict(self) -> str:
        """The verdict as one sentence."""
        found = self.comparison
        if self._differs:
            at = "" if found.first_step is None else f", first at step {found.first_step}"
            return f"Different: {self._failure}{at}."
        if self._failure is not None:
            return f"Inconclusive: {self._failure}."
        return (
            f"Identical: the run was interrupted {self._times} and has the same {found.rows} rows "
            f"of metrics, digit for digit, and the same {found.tensors} tensors in the checkpoint "
            f"of step {found.step}, bit for bit, as the uninterrupted run."
        )

    def proof(self) -> Verdict:
        """The verdict as it is recorded with the jobs."""
        found = self.comparison
        jobs = [job.id for job in (self.untouched, self.interrupted) if job is not None]
        return Verdict(
            verdict=(
                "identical" if self.passed else "differs" if self._differs else "inconclusive"
            ),
            step=found.first_step if self._differs else None,
            message=self.verdict[:2000],
            interruptions=len(self.seconds),
            jobs=jobs,
        )

    @property
    def _differs(self) -> bool:
        """Whether two runs that came to their end were compared, and are not the same."""
        jobs, found = (self.untouched, self.interrupted), self.comparison
        if not all(job is not None and job.state is State.SUCCEEDED for job in jobs):
            return False
        return bool((found.rows and found.curve) or (found.tensors and found.weights))

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
                f"only {len(self.seconds)} of {len(self.moments)} interruptions took place before "
                "the end; ask for fewer, or use a job that is longer or saves more often"
            )
        return None if found.identical else "there was nothing to compare"

    def show(self, console: Console) -> None:
        """Prints the table, the differences and the verdict."""
        interrupted = self.interrupted.attempts[:-1] if self.interrupted else []
        console.print(heading(4, "The cost of the interruptions"))
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        count = len(self.seconds)
        table.add_column(f"{count} interruption{'' if count == 1 else 's'}", no_wrap=True)
        table.add_column("p50", justify="right")
        table.add_column("max", justify="right")
        for row in self.rows:
            table.add_row(row.title, row.cell(row.p50), row.cell(row.largest))
        console.print(table)
        if self.seconds and not interrupted:
            console.print("   No attempt ended: training continued.")
        for found in (self.comparison.curve, self.comparison.weights):
            for line in found[:_SHOWN]:
                console.print(f"   {line}", style="red", markup=False)
            if len(found) > _SHOWN:
                console.print(f"   and {len(found) - _SHOWN} more")
        if self.comparison.rows:
            compared, ignored = self.comparison.metrics, self.comparison.ignored
            console.print(f"   Compared: {', '.join(compared)}; ignored: {', '.join(ignored)}")
        console.print(self.verdict, style="bold green" if self.passed else "bold red")

    def as_json(self) -> str:
        """The report as one line of JSON."""
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
