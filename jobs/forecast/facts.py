"""How long jobs take, by their measured step rates and by those of similar jobs; without I/O."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Self


@dataclass(frozen=True)
class Facts:
    """What the record of a job says of its time.

    `kind` is what similar jobs have in common. All steps of one kind of the built-in workload take
    about as long, so `pace` (seconds per step) counts for all of them. Jobs of another program are
    of one kind if they have the same name. `ran` are the seconds of all attempts so far, `left`
    those to the last step, as the running attempt expects.
    """

    kind: str
    is_train: bool
    ran: float = 0.0
    step: int | None = None
    total: int | None = None
    pace: float | None = None
    startup: float = 0.0
    left: float | None = None

    @classmethod
    def of(cls, fields: Mapping[str, str | None], now: float | None = None) -> Self:
        """The facts in a record; `now`, in seconds since the epoch, if it runs.

        Raises ValueError for a record that cannot be read.
        """
        try:
            return cls._of(fields, now)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a record: {error!r}") from None

    @classmethod
    def _of(cls, fields: Mapping[str, str | None], now: float | None) -> Self:
        spec: dict[str, Any] = json.loads(fields["spec"] or "{}")
        seen: dict[str, Any] = json.loads(fields.get("progress") or "{}")
        ran, train = float(fields.get("run_seconds") or 0), spec.get("train")
        if now is not None:
            current = json.loads(fields.get(f"attempt:{fields['attempt']}") or "{}")
            ran += max(0.0, now - float(current.get("started_at") or now))
        return cls(
            kind=_kind(spec),
            is_train=train is not None,
            ran=ran,
            step=seen.get("step"),
            total=train["steps"] if train is not None else seen.get("total_steps"),
            pace=_pace(seen),
            startup=_number(seen.get("first_step_seconds")) or 0.0,
            left=_number(seen.get("seconds_left")) if now is not None else None,
        )

    @property
    def steps_left(self) -> int | None:
        """Steps that are left; None if their number is not known."""
        if self.total is None:
            return None
        return max(0, self.total - (0 if self.step is None else self.step + 1))


@dataclass
class Experience:
    """What similar jobs have taken: seconds per step, to the first step, and altogether."""

    _paces: dict[str, list[float]] = field(default_factory=dict)
    _startups: dict[str, list[float]] = field(default_factory=dict)
    _totals: dict[str, list[float]] = field(default_factory=dict)

    def add(self, facts: Facts, *, has_ended: bool) -> None:
        """Adds what a job that succeeded, or one that runs, has taken."""
        if facts.pace is not None:
            self._paces.setdefault(facts.kind, []).append(facts.pace)
            self._startups.setdefault(facts.kind, []).append(facts.startup)
        if has_ended:
            self._totals.setdefault(facts.kind, []).append(facts.ran)
        elif facts.left is not None:
            self._totals.setdefault(facts.kind, []).append(facts.ran + facts.left)

    def left_of_running(self, facts: Facts) -> float | None:
        """Seconds to the end of a running job; None if they are not known."""
        if facts.left is not None:
            return facts.left
        return self._left(facts, startup=0.0)

    def left_of_waiting(self, facts: Facts) -> float | None:
        """Seconds for which a waiting job will run; None if they are not known."""
        if facts.pace is not None and facts.steps_left is not None:
            return facts.startup + facts.steps_left * facts.pace
        return self._left(facts, startup=_median(self._startups.get(facts.kind, ())) or 0.0)

    def _left(self, facts: Facts, startup: float) -> float | None:
        if facts.is_train:
            pace = _median(self._paces.get(facts.kind, ()))
            if pace is None or facts.steps_left is None:
                return None
            return startup + facts.steps_left * pace
        total = _median(self._totals.get(facts.kind, ()))
        # One that takes longer than the others of its name is like none of them.
        return total - facts.ran if total is not None and total > facts.ran else None


def _kind(spec: Mapping[str, Any]) -> str:
    train = spec.get("train")
    if train is None:
        return f"name {spec['name']}"
    costs = [train.get(name) for name in ("model", "batch_size", "gradient_accumulation")]
    return f"train {json.dumps([*costs, train['optimizer']['name'], spec['resources']['gpus']])}"


def _pace(seen: Mapping[str, Any]) -> float | None:
    """Seconds per step of the newest attempt."""
    first, last, took = seen.get("first_step"), seen.get("step"), _number(seen.get("step_seconds"))
    if first is None or last is None or last <= first or not took:
        return None
    return took / float(last - first)


def _number(value: object) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return median(found) if found else None
