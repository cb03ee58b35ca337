"""Sums over all ended attempts in one hash, so that a scrape need not read every record.

The script that ends an attempt updates them in the same step, so they are exact.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.model.record import Attempt
from jobs.model.states import RULES, Budget, State

# Upper bounds of the buckets of a histogram, seconds; the last bucket has none.
DETECTION = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0)
QUEUE = (1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)


# The usual final state of a job by the reason of its last attempt.
USUAL_ENDS = {
    **{reason: State.FAILED for reason, rule in RULES.items() if rule.budget is not Budget.NOTHING},
    **{reason: rule.then for reason, rule in RULES.items() if rule.then.is_final},
}


def increments(ended: Attempt, state: State) -> dict[str, float]:
    """What an ended attempt adds, when its job is in `state` after it."""
    found: dict[str, float] = {f"attempts:{ended.reason}": 1}
    if state.is_final:
        found[f"jobs:{state}:{ended.reason}"] = 1
    if ended.ended_at is not None:
        heard = ended.ended_at - (ended.detect_seconds or 0.0)
        found["attempt_seconds"] = max(0.0, heard - ended.started_at)
    if ended.useful_seconds is not None:
        found["useful_seconds"] = ended.useful_seconds
        found["counted_seconds"] = found.get("attempt_seconds", 0.0)
    found["steps_recomputed"] = ended.steps_recomputed or 0
    if ended.first_step is not None and ended.last_step is not None:
        found["steps"] = ended.last_step - ended.first_step + 1
    found["uploaded_bytes"] = ended.uploaded_bytes
    if ended.detect_seconds is not None:
        found.update(_in_class("detection", ended.detect_seconds, DETECTION))
    if ended.queue_seconds is not None:
        found.update(_in_class("queue", ended.queue_seconds, QUEUE))
    return {name: amount for name, amount in found.items() if amount}


def _in_class(name: str, value: float, ends: Sequence[float]) -> dict[str, float]:
    end = next((end for end in ends if value <= end), None)
    return {f"{name}:{'+Inf' if end is None else end}": 1, f"{name}:sum": value}
