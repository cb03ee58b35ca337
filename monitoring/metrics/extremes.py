"""The smallest and the largest value of each metric in each bucket of steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from monitoring.arrays import Array
from monitoring.metrics.decimals import ERROR, Numbers


class Extremes:
    """Collects the finite extremes of any number of metrics from a sequence of tables.

    Args:
        first: the first step.
        last: the last step; steps outside count for the bucket at that end.
        buckets: the number of parts of equal width into which the steps are divided.
    """

    def __init__(self, first: int, last: int, buckets: int) -> None:
        self._first = first
        self._width = (last - first + 1) / buckets
        self._buckets = buckets
        self._metrics: dict[str, int] = {}
        # [0] has the smallest values, [1] the smallest negated values.
        self._values = np.empty((2, buckets, 0))
        self._steps = np.empty((2, buckets, 0))

    def add(self, steps: Array, names: Sequence[str], columns: list[int], table: Numbers) -> None:
        """Add rows, given by their steps and the names and columns of their metrics in a table."""
        bucket = ((steps - self._first) / self._width).astype(np.int64)
        bucket = np.clip(bucket, 0, self._buckets - 1)
        order = np.argsort(bucket, kind="stable")
        bucket = bucket[order]
        starts = np.flatnonzero(np.diff(bucket, prepend=-1))
        run = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(bucket)))

        values = table.values[order][:, columns]  # (rows, metrics)
        signed = np.stack((values, -values))  # (2, rows, metrics)
        finite = np.isfinite(signed)
        signed[~finite] = np.inf
        least = np.minimum.reduceat(signed, starts, axis=1)  # (2, runs, metrics)
        # A value this close to the smallest may be smaller: compare all digits.
        close = finite & (signed <= (least + np.abs(least) * (2 * ERROR))[:, run])
        sign, row, metric = np.nonzero(close)
        exact = table.exactly(order[row], np.take(columns, metric))
        signed[sign, row, metric] = np.where(sign, -exact, exact)
        least = np.minimum.reduceat(signed, starts, axis=1)

        hits = signed[sign, row, metric] == least[sign, run[row], metric]
        sign, row, metric = sign[hits][::-1], row[hits][::-1], metric[hits][::-1]
        place = np.zeros(least.shape, dtype=np.int64)
        place[sign, run[row], metric] = row  # backwards, so that the first such row is kept
        here = np.s_[:, bucket[starts, np.newaxis], self._places(names)]
        better = least < self._values[here]
        self._values[here] = np.where(better, least, self._values[here])
        self._steps[here] = np.where(better, steps[order][place], self._steps[here])

    def points(self) -> Iterator[tuple[str, list[tuple[int, float]]]]:
        """Yield (step, value) pairs of each metric by step; equal extremes of a bucket once."""
        for name, place in self._metrics.items():
            steps, values = self._steps[:, :, place], self._values[:, :, place] * [[1.0], [-1.0]]
            found = np.isfinite(values)
            pairs = zip(steps[found].tolist(), values[found].tolist(), strict=True)
            yield name, sorted({(int(step), value) for step, value in pairs})

    def _places(self, names: Sequence[str]) -> list[int]:
        """The indices of metrics, with new ones added."""
        for name in names:
            self._metrics.setdefault(name, len(self._metrics))
        if missing := len(self._metrics) - self._values.shape[2]:
            more = (2, self._buckets, missing)
            self._values = np.concatenate((self._values, np.full(more, np.inf)), axis=2)
            self._steps = np.concatenate((self._steps, np.zeros(more)), axis=2)
        return [self._metrics[name] for name in names]
