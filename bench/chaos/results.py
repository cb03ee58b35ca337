"""The results of a chaos run, as a report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.report import Report
from jobs.model.record import Attempt, Job

_SHOWN = 12  # flaws of each kind
# Every kind of flaw is a limit of zero.
KINDS = (
    "runs that did not finish",
    "jobs lost or duplicated",
    "jobs that did not succeed exactly once",
    "curves or weights that differ from the reference",
    "log lines of an overtaken attempt",
    "attempts with two writers, or one without its worker",
    "attempts lost although their worker was not struck",
    "receipts missing or wrong",
    "inconsistent histories",
    "entries left in Redis",
    "files left on the scratch disk",
    "temporary files left",
    "processes left, or an unclean exit",
)


@dataclass
class Results:
    """Jobs, strikes and flaws of a run."""

    jobs: list[Job] = field(default_factory=list)
    struck: dict[str, int] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)
    flaws: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    idle_beside_work: float = 0.0
    overtaken: int = 0  # attempts whose worker woke up when a newer one had the job

    def found(self, kind: str, flaws: Iterable[str]) -> None:
        """Records flaws of a kind, each once."""
        known = self.flaws[kind]
        known.extend(flaw for flaw in flaws if flaw not in known)

    def strikes(self, struck: Mapping[str, int], missed: Mapping[str, int]) -> None:
        """Records how often each target was struck, and how often it did not exist."""
        self.struck, self.missed = dict(sorted(struck.items())), dict(sorted(missed.items()))

    @property
    def reasons(self) -> dict[str, int]:
        """The number of attempts by the reason of their end."""
        ended = Counter(str(attempt.reason) for job in self.jobs for attempt in job.attempts)
        return dict(ended.most_common())

    def report(self, setting: dict[str, Any]) -> Report:
        """The report with measures, limits and flaws."""
        given = {k: v for k, v in setting.items() if k not in {"data", "keep"}}
        outcome = {
            "struck": self.struck,
            "missed": self.missed,
            "attempts": self.reasons,
            "overtaken": self.overtaken,
        }
        report = Report("chaos", {**given, **outcome})
        report.add("from the first strike to the last job's end", "s", [self.seconds])
        report.add("longest wait of a job beside an idle worker", "s", [self.idle_beside_work])
        attempts = [attempt for job in self.jobs for attempt in job.attempts]
        again = [attempt for job in self.jobs for attempt in job.attempts[1:]]
        for title, field_name, among in _MEASURES:
            chosen = attempts if among == "all" else again
            values = [v for a in chosen if (v := getattr(a, field_name)) is not None]
            if values:
                report.add(title, "s" if field_name.endswith("seconds") else "steps", values)
        if self.jobs:
            report.add("attempts per job", "", [float(job.attempt) for job in self.jobs])
        for kind in KINDS:
            report.bar(kind, len(self.flaws[kind]), 0)
        report.notes += [f"struck {count} x {kind}" for kind, count in self.struck.items()]
        report.notes += [f"missed {count} x {kind}" for kind, count in self.missed.items()]
        report.notes.append(f"attempts by reason: {json.dumps(self.reasons)}")
        report.notes.append(f"workers that woke up overtaken: {self.overtaken}")
        report.notes.append(f"recomputed steps: {sum(map(_recomputed, attempts))}")
        for kind, flaws in self.flaws.items():
            report.notes += [f"FLAW ({kind}) {flaw}" for flaw in flaws[:_SHOWN]]
        report.notes += [f"in the logs: {error}" for error in self.errors[:_SHOWN]]
        return report


_MEASURES = (
    ("detection of a lost attempt", "detect_seconds", "all"),
    ("queue, of further attempts", "queue_seconds", "again"),
    ("restore, of further attempts", "restore_seconds", "again"),
    ("from the claim to the first step, of further attempts", "first_step_seconds", "again"),
    ("recomputed steps, of further attempts", "steps_recomputed", "again"),
)


def _recomputed(attempt: Attempt) -> int:
    return attempt.steps_recomputed or 0
