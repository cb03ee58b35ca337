"""What differs between several jobs, and what each has reached."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from api.schemas import CodeComparison, Comparison, Result
from api.server.curves.buckets import Curve
from api.server.curves.differences import StoredRun, first_differences, flat, workspace_of
from api.server.curves.index import View
from api.server.curves.indexes import MetricsIndexes
from jobs.model.record import Job
from monitoring.storage.base import Storage

# By the names that people give to metrics; of a learning rate or a norm, neither end is better.
_LARGER = re.compile(
    r"acc|f1|bleu|rouge|auc|reward|per_sec|per_second|throughput|score", re.IGNORECASE
)
_SMALLER = re.compile(r"loss|perplexity|error|mse|mae|wer|fid|bits_per", re.IGNORECASE)


def comparison_of(storage: Storage, indexes: MetricsIndexes, jobs: Sequence[Job]) -> Comparison:
    """The comparison; raises `OSError` and `StorageError`."""
    runs = [StoredRun(storage, job.id) for job in jobs]
    environments = [run.environment() for run in runs]
    known = [one for one in environments if one]
    return Comparison(
        jobs=[job.id for job in jobs],
        specification=_differing([flat(job.spec.model_dump(mode="json")) for job in jobs]),
        code=CodeComparison(
            workspace=_unless_same([workspace_of(job) for job in jobs]),
            commit=_unless_same([run.commit() for run in runs]),
            patch=_unless_same([run.patch() for run in runs]),
        ),
        environment={key: [one.get(key) for one in environments] for key in _differing(known)},
        results=_results([_reached(run, indexes, storage) for run in runs]),
        curves={
            job.id: first_differences(runs[0], run, indexes, storage)
            for job, run in zip(jobs[1:], runs[1:], strict=True)
        },
    )


def _differing(trees: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values of each key that differs, one for each tree."""
    keys = sorted({key for tree in trees for key in tree})
    rows = {key: [tree.get(key) for tree in trees] for key in keys}
    return {key: row for key, row in rows.items() if not _are_same(row)}


def _unless_same(row: list[Any]) -> list[Any] | None:
    return None if _are_same(row) else row


def _are_same(row: Sequence[Any]) -> bool:
    return all(value == row[0] and type(value) is type(row[0]) for value in row)


def _results(reached: Sequence[Mapping[str, Result]]) -> dict[str, list[Result | None]]:
    names = sorted({name for run in reached for name in run})
    return {name: [run.get(name) for run in reached] for name in names}


def _reached(run: StoredRun, indexes: MetricsIndexes, storage: Storage) -> dict[str, Result]:
    with indexes.extended(run.metrics, storage) as index:
        curves = index.curves(storage, View(list(index.names()), points=1))
    return {name: _result(name, curve) for name, curve in curves.items() if curve.last}


def _result(name: str, curve: Curve) -> Result:
    lows, highs = [v for v in curve.low if math.isfinite(v)], filter(math.isfinite, curve.high)
    low, high = min(lows, default=None), max(highs, default=None)
    best = high if _LARGER.search(name) else low if _SMALLER.search(name) else None
    return Result(last=curve.last[-1], min=low, max=high, best=best)
