"""Measures the curves of a long run over HTTP, beside its rows: `/series` and `/metrics`.

A run of `--rows` rows lies in a directory, then in an object store on this machine. Through the
API, as it is served: the first request for its curves, which reads the file; the same again, of one
metric and of all; a part of the run; and a poll after ten new rows. Beside the first request,
another call is repeated, to see what it waits. `/metrics` sends the rows themselves, in pages of
10,000: what a client needs in order to compute the curves on its own.
"""

from __future__ import annotations

import math
import os
import random
import struct
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from typing import Any

import httpx

from bench.report import Report, options, timed
from bench.system.service import local_service
from bench.system.store import environment, s3_store
from monitoring.metrics.rows import RowFormat
from monitoring.storage.base import Storage
from monitoring.storage.open import open_storage

_NAMES = ("loss", "learning_rate", "grad_norm", "tokens_per_sec", "perplexity", "wave_ratio")
_RARE = "val_loss"
_BLOCK_ROWS = 50_000
_WARM_MS, _COLD_SECONDS = 100.0, 10.0


def main(argv: Sequence[str]) -> int:
    """Measure both kinds of storage; return 1 if a limit is exceeded."""
    arguments = options("series", rows=1_000_000, requests=30).parse_args(argv)
    report = Report("series", {**vars(arguments), "metrics": len(_NAMES) + 1, "points": 2000})
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        url = (root / "runs").as_uri()
        with local_service(root / "one", workers=0, settings={"SPECTRAIN_STORAGE_URL": url}) as one:
            _measure(report, "directory", one.url, open_storage(url), arguments)
        with s3_store() as (_, port):
            settings = environment(port)
            os.environ.update(settings)
            storage = open_storage(settings["SPECTRAIN_STORAGE_URL"])
            with local_service(root / "two", workers=0, settings=settings) as two:
                _measure(report, "object store", two.url, storage, arguments)
    return report.show(keep=arguments.keep)


def _measure(report: Report, place: str, url: str, storage: Storage, arguments: Any) -> None:
    with httpx.Client(base_url=url, timeout=600) as http:
        job = http.post("/v1/jobs", json={"name": "a", "train": {}}).json()["id"]
        key, size = f"{job}/logs/metrics.jsonl", 0
        for block in _blocks(arguments.rows):
            storage.append(key, size, block)
            size += len(block)
        report.notes.append(f"{place}: {size / 1e6:.0f} MB")

        def series(**query: Any) -> dict[str, Any]:
            answer = http.get(f"/v1/jobs/{job}/series", params=query).raise_for_status()
            found: dict[str, Any] = answer.json()
            return found

        with _Beside(url, f"/v1/jobs/{job}") as alone:
            threading.Event().wait(1)
        with _Beside(url, f"/v1/jobs/{job}") as beside:
            cold = timed(lambda: series(keys="loss")) / 1e3
        report.add(f"{place}: first request", "s", [cold])
        report.add(f"{place}: another call, alone", "ms", alone.took)
        report.add(f"{place}: another call, beside the first request", "ms", beside.took)
        slow, usual = (quantiles(one.took, n=20)[-1] for one in (beside, alone))
        report.notes.append(
            f"{place}: another call, p95: {slow:.1f} ms beside the first request, {usual:.1f} alone"
        )
        report.bar(f"s for the first request, {place}", cold, _COLD_SECONDS)
        keys, last = [*_NAMES, _RARE], arguments.rows - 1
        kinds: dict[str, Mapping[str, Any]] = {
            "one metric": {"keys": "loss"},
            "all metrics": {"keys": keys},
            "a tenth of the run": {"keys": keys, "from": 0.5 * last, "to": 0.6 * last},
            "a thousandth of the run": {"keys": keys, "from": 0.5 * last, "to": 0.501 * last},
        }
        for kind, query in kinds.items():
            ask = partial(series, **query)
            times = [timed(ask) for _ in range(arguments.requests)]
            median = report.add(f"{place}: {kind}", "ms", times)
            report.bar(f"ms for {kind}, {place}", median, _WARM_MS)
        cursor, polls = series()["cursor"], []
        for number in range(arguments.requests):
            new = b"".join(_rows(range(last + 1 + 10 * number, last + 11 + 10 * number)))
            storage.append(key, size, new)
            size += len(new)
            begun = perf_counter()
            page = series(keys=keys, cursor=cursor)
            polls.append((perf_counter() - begun) * 1e3)
            assert len(page["series"]["loss"]["x"]) == 10, page
            cursor = page["cursor"]
        median = report.add(f"{place}: ten new rows", "ms", polls)
        report.bar(f"ms for a poll, {place}", median, _WARM_MS)
        report.add(f"{place}: /metrics, all rows", "s", [timed(lambda: _read_all(http, job)) / 1e3])


class _Beside:
    """Repeats a call in a thread of its own; `took` has the milliseconds of each."""

    def __init__(self, url: str, path: str) -> None:
        self.took: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, args=(url, path))

    def _repeat(self, url: str, path: str) -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            while not self._ended.is_set() or len(self.took) < 2:
                self.took.append(timed(lambda: http.get(path).raise_for_status()))
                self._ended.wait(0.005)

    def __enter__(self) -> _Beside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def _read_all(http: httpx.Client, job: str) -> None:
    cursor: str | None = None
    while True:
        query = {"limit": 10_000} | ({} if cursor is None else {"cursor": cursor})
        page = http.get(f"/v1/jobs/{job}/metrics", params=query).raise_for_status().json()
        if not page["rows"]:
            return
        cursor = page["cursor"]


def _blocks(rows: int) -> Iterator[bytes]:
    for start in range(0, rows, _BLOCK_ROWS):
        yield b"".join(_rows(range(start, min(start + _BLOCK_ROWS, rows))))


def _rows(steps: range) -> Iterator[bytes]:
    """Rows like those of the built-in workload, with a validation each thousandth step."""
    usual, validated = RowFormat(_NAMES), RowFormat((*_NAMES, _RARE))
    rng = random.Random(steps.start)
    for step in steps:
        loss = _float32(4 + 3 * math.exp(-step / 1e5) + rng.gauss(0, 0.1))
        values: tuple[Any, ...] = (
            loss,
            1e-3 * (1 + math.cos(step / 1e6)) / 2,
            _float32(rng.random()),
            round(1500 + 100 * rng.random(), 1),
            math.exp(loss),
            _float32(0.5 + rng.random() / 100),
        )
        if step % 1000 == 999:
            values += (loss,)
        form = validated if step % 1000 == 999 else usual
        yield form.lines(step, 1.7e9 + step / 10, b"", values)[0]


def _float32(value: float) -> float:
    """A value like that of `loss.item()`: a double with the digits of a float32."""
    number: float = struct.unpack("f", struct.pack("f", value))[0]
    return number
