"""The metrics at `/metrics`: the state of the service in Redis, and the requests to this process.

A scrape costs Redis a handful of calls, however many jobs exist: the script that ends an attempt
also updates the counters (`jobs.store.counters`). Several API processes report the same state of
the service, and each its own requests.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from api.server.access.guard import REASONS
from api.server.context import AppContext
from jobs.errors import STORE_AWAY
from jobs.model.states import Reason
from jobs.model.workers import Pool, Worker, WorkerState
from jobs.store.counters import DETECTION, QUEUE, USUAL_ENDS

# Without the additional series `*_created`.
disable_created_metrics()  # type: ignore[no-untyped-call]

EXPORTER = "spectrain-exporter"
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Exporter:
    """Exports the metrics of the service and of the requests to this process."""

    def __init__(self, context: AppContext, refused: Mapping[str, int]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_ServiceCollector(context))
        self._registry.register(_RefusalCollector(refused))
        self._requests = Histogram(
            "spectrain_request_seconds",
            "Time from a request to the start of its answer, seconds, by route and status.",
            ["method", "route", "status"],
            registry=self._registry,
            buckets=_LATENCIES,
        )

    def time_requests(self, app: Flask) -> None:
        """Measures every request to an application."""

        @app.before_request
        def begin() -> None:
            g.begun = time.perf_counter()

        @app.after_request
        def end(response: Response) -> Response:
            rule = request.url_rule.rule if request.url_rule is not None else "none"
            labels = (request.method, rule, str(response.status_code))
            if "begun" in g:
                self._requests.labels(*labels).observe(time.perf_counter() - g.begun)
            return response

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


class _RefusalCollector(Collector):
    """The requests that access control refused, counted by this process."""

    def __init__(self, refused: Mapping[str, int]) -> None:
        self._refused = refused

    def collect(self) -> Iterator[Metric]:
        """The number by reason; every series starts at 0."""
        found = CounterMetricFamily(
            "spectrain_requests_refused",
            "Requests that access control refused, by reason.",
            labels=["reason"],
        )
        for reason in REASONS:
            found.add_metric([reason], self._refused.get(reason, 0))
        yield found


class _ServiceCollector(Collector):
    """Reads Redis and storage once per scrape."""

    def __init__(self, context: AppContext) -> None:
        self._context = context

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry must not query Redis when the collector is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric family; without those from Redis while it is unreachable."""
        up = GaugeMetricFamily(
            "spectrain_up", "Whether a part is reachable (1) or not (0).", labels=["part"]
        )
        found: list[Metric] = []
        try:
            found = list(self._of_redis())
        except STORE_AWAY:
            found = []
        up.add_metric(["redis"], 1 if found else 0)
        up.add_metric(["storage"], self._storage_is_up())
        yield up
        yield from found

    def _storage_is_up(self) -> int:
        findings = self._context.readiness.found()
        return int(not any(one.problem for one in findings if one.part == "storage"))

    def _of_redis(self) -> Iterator[Metric]:
        now = self._context.store.snapshot()
        jobs = GaugeMetricFamily("spectrain_jobs", "Jobs by state.", labels=["state"])
        for state, count in now.jobs.items():
            jobs.add_metric([state], count)
        yield jobs
        yield _counter("jobs_submitted", "Accepted jobs.", now.submitted)
        yield GaugeMetricFamily(
            "spectrain_reaper_pass_age_seconds",
            "Time since the last pass of the reaper, seconds; infinite before the first.",
            value=float("inf") if now.reaper_pass_age is None else now.reaper_pass_age,
        )
        yield GaugeMetricFamily(
            "spectrain_dirty_records",
            "Jobs whose current record has no copy in storage yet.",
            value=now.dirty,
        )
        yield from _of_pools(self._context.registry.pools(), self._context.registry.workers())
        yield from _of_counters(now.counters)


def _of_pools(pools: Sequence[Pool], workers: Sequence[Worker]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "spectrain_pool_jobs",
        "Jobs of a pool: queued, delayed or running.",
        labels=["pool", "state"],
    )
    wanted = GaugeMetricFamily(
        "spectrain_pool_wanted",
        "Running jobs of a pool, and queued ones that no limit holds: the workers with work.",
        labels=["pool"],
    )
    there = GaugeMetricFamily(
        "spectrain_workers", "Workers of a pool, by state.", labels=["pool", "state"]
    )
    gpus = GaugeMetricFamily(
        "spectrain_gpus", "GPUs of a pool, by the state of their worker.", labels=["pool", "state"]
    )
    of_workers = Counter[tuple[str, WorkerState]]()
    for worker in workers:
        of_workers[worker.pool, worker.state] += len(worker.gpus)
    for pool in pools:
        for name in ("queued", "delayed", "running"):
            waiting.add_metric([pool.name, name], getattr(pool, name))
        wanted.add_metric([pool.name], pool.wanted)
        for state, count in pool.workers.items():
            there.add_metric([pool.name, state], count)
            gpus.add_metric([pool.name, state], of_workers[pool.name, state])
    yield from (waiting, wanted, there, gpus)


def _of_counters(counters: Mapping[str, float]) -> Iterator[Metric]:
    attempts = CounterMetricFamily(
        "spectrain_attempts_ended", "Ended attempts, by reason.", labels=["reason"]
    )
    jobs = CounterMetricFamily(
        "spectrain_jobs_ended",
        "Ended jobs, by state and the reason of their last attempt.",
        labels=["state", "reason"],
    )
    # Start every series at 0: Prometheus sees no increase in a series that begins with 1.
    none = {f"attempts:{reason}": 0.0 for reason in Reason}
    none |= {f"jobs:{state}:{reason}": 0.0 for reason, state in USUAL_ENDS.items()}
    for name, count in sorted({**none, **counters}.items()):
        kind, *parts = name.split(":")
        if kind == "attempts":
            attempts.add_metric(parts, count)
        elif kind == "jobs":
            jobs.add_metric(parts, count)
    yield from (attempts, jobs)
    for name, text in {
        "steps": "Steps of ended attempts.",
        "steps_recomputed": "Steps of ended attempts that an earlier one had completed.",
        "attempt_seconds": "Run time of ended attempts, seconds.",
        "counted_seconds": "Run time of ended attempts that counted steps, seconds.",
        "useful_seconds": "Time of ended attempts on new steps, seconds.",
        "uploaded_bytes": "Bytes that ended attempts published to storage.",
    }.items():
        yield _counter(name, text, counters.get(name, 0.0))
    yield _histogram(
        "detection",
        "Time from the last sign of life of a lost attempt to the verdict, seconds.",
        counters,
        DETECTION,
    )
    yield _histogram(
        "queue", "Time from when a job could run to its claim, seconds.", counters, QUEUE
    )


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"spectrain_{name}", text, value=value)


def _histogram(
    name: str, text: str, counters: Mapping[str, float], ends: Sequence[float]
) -> Metric:
    buckets, count = [], 0.0
    for end in (*map(str, ends), "+Inf"):
        count += counters.get(f"{name}:{end}", 0.0)
        buckets.append((end, count))
    total = counters.get(f"{name}:sum", 0.0)
    return HistogramMetricFamily(
        f"spectrain_{name}_seconds", text, buckets=buckets, sum_value=total
    )
