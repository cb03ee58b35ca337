"""The answer to a request for curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from api.schemas import SeriesQuery
from api.server.curves.buckets import Curve
from api.server.curves.index import MetricsIndex, View
from api.server.curves.indexes import MetricsIndexes
from api.server.curves.table import STEP, TIME, TOKENS
from api.server.runs.metric_pages import key_of
from jobs.model.spec import JobSpec
from monitoring.json_values import jsonable
from monitoring.paths import RunPaths
from monitoring.storage.base import Storage

Place = Callable[[float], float]

_AXES = {"step": STEP, "time": TIME, "tokens": TOKENS}


@dataclass(frozen=True)
class Answer:
    """The body of an answer, as JSON, and its ETag; no body if that is what the caller has."""

    body: bytes | None
    etag: str


class _Scale:
    """Tokens by step, for a built-in workload: it does not log them, but each step has as many."""

    def __init__(self, per_step: int) -> None:
        self._per_step = per_step

    def tokens(self, step: float) -> float:
        """The tokens seen after a step; steps are numbered from 0."""
        return float(step + 1) * self._per_step

    def step(self, tokens: float | None) -> float | None:
        """The reverse."""
        return None if tokens is None else tokens / self._per_step - 1


def answer(
    storage: Storage, indexes: MetricsIndexes, run: str, spec: JobSpec, query: SeriesQuery,
    known: Collection[str],
) -> Answer:  # fmt: skip
    """The curves of a run; without a body if its ETag is one of those `known`.

    Raises `OSError` and `StorageError`.
    """
    key, paths = key_of(storage, run), RunPaths(Path(run))
    with ExitStack() as stack:

        def open_index(key: str) -> MetricsIndex:
            return stack.enter_context(indexes.extended(key, storage))

        metrics = index = open_index(key)
        if query.source == "system":
            key = paths.system.as_posix()
            index = open_index(key)
        earlier: MetricsIndex | None = None
        if query.superseded and index is metrics:
            earlier = open_index(paths.superseded_metrics.as_posix())
        etag = f"{Path(key).name}-{index.cursor}"
        if earlier is not None:
            etag += f"-{earlier.cursor}"
        later = index.start - metrics.start
        if later and not math.isnan(later):
            etag += f"-{later:.3f}"
        if etag in known:
            return Answer(None, etag)
        return Answer(_body(storage, metrics, index, earlier, spec, query), etag)


def _body(
    storage: Storage,
    metrics: MetricsIndex,
    index: MetricsIndex,
    earlier: MetricsIndex | None,
    spec: JobSpec,
    query: SeriesQuery,
) -> bytes:
    scale = _scale(spec) if query.x == "tokens" and not index.has_tokens else None
    names = list(dict.fromkeys(query.keys))
    view = View(names, _AXES[query.x], query.points, query.start, query.end)
    if scale is not None:
        view = View(names, STEP, query.points, scale.step(view.low), scale.step(view.high))
    place: Place = scale.tokens if scale is not None else _same
    if index is not metrics:
        view, place = _on_time_of(metrics, index, view, place)
    new = index.since(storage, query.cursor, view) if query.cursor else None
    curves = index.curves(storage, view) if new is None else new
    low, high = index.spans[view.axis] if view.axis < len(index.spans) else (math.inf, -math.inf)
    before = None if earlier is None else _earlier(storage, index, earlier, view, place)
    axes = ["step"] if index.rows else []
    axes += ["time"] if index.rows and index.spans[TIME][0] <= index.spans[TIME][1] else []
    axes += ["tokens"] if index.rows and (index.has_tokens or _scale(spec)) else []
    body: dict[str, Any] = {
        "series": _series(curves, place),
        "superseded": before,
        "names": index.names(),
        "rows": index.rows,
        "axes": axes,
        "x_range": [place(low), place(high)] if low <= high else None,
        "cursor": index.cursor,
        "restarted": query.cursor is not None and new is None,
    }
    return orjson.dumps(body)


def _earlier(
    storage: Storage, index: MetricsIndex, earlier: MetricsIndex, view: View, place: Place
) -> dict[str, Any]:
    """The curves of the superseded rows."""
    view, place = _on_time_of(index, earlier, view, place)
    return _series(earlier.curves(storage, view), place)


def _on_time_of(
    index: MetricsIndex, other: MetricsIndex, view: View, place: Place
) -> tuple[View, Place]:
    """The view of another index whose time counts from the beginning of this one's, too."""
    later = other.start - index.start
    if view.axis != TIME or math.isnan(later):
        return view, place
    low, high = (None if x is None else x - later for x in (view.low, view.high))
    return replace(view, low=low, high=high), lambda time: time + later


def _scale(spec: JobSpec) -> _Scale | None:
    train = spec.train
    if train is None:
        return None
    return _Scale(train.batch_size * train.gradient_accumulation * train.model.block_size)


def _series(curves: Mapping[str, Curve], place: Place) -> dict[str, Any]:
    return {name: _columns(curve, place) for name, curve in curves.items()}


def _columns(curve: Curve, place: Place) -> dict[str, Sequence[Any]]:
    last = curve.last
    low, high = curve.low, curve.high
    if any(curve.bad):
        low = [a if a <= b else c for a, b, c in zip(low, high, last, strict=True)]
        high = [b if a <= b else c for a, b, c in zip(curve.low, high, last, strict=True)]
    return {
        "x": curve.x if place is _same else [place(x) for x in curve.x],
        "min": _texts(low),
        "max": _texts(high),
        "last": _texts(last),
        "not_finite": curve.bad if any(curve.bad) else [],
    }


def _texts(values: Sequence[float]) -> Sequence[Any]:
    """The values, with the usual texts for those that JSON lacks."""
    return values if math.isfinite(sum(values)) else [jsonable(value) for value in values]


def _same(x: float) -> float:
    return x
