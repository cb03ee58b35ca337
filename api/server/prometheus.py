"""What Prometheus reads at `/metrics`: the service as Redis has it, and this process's requests.

A scrape costs Redis a handful of calls, however many jobs there are: the script that writes an end
also counts it (`jobs.store.counters`). Where several processes serve the API, each reports the same
service and its own requests.
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

from api.server.context import AppContext
from jobs.errors import STORE_AWAY
from jobs.model.states import Reason
from jobs.model.workers import Pool, Worker, WorkerState
from jobs.store.counters import DETECTION, QUEUE, USUAL_ENDS

# A second series for each, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

SEEN = "spectrain-seen"
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Seen:
    """What this process has seen, with what Redis knows."""

    def __init__(self, context: AppContext) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_ServiceCollector(context))
        self._requests = Histogram(
            "spectrain_request_seconds",
            "Time until the answer to a request began, by route and status.",
            ["method", "route", "status"],
            registry=self._registry,
            buckets=_LATENCIES,
        )

    def watch(self, app: Flask) -> None:
        """Takes the time of every request from now on."""

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
        """All of it, in the text format of Prometheus."""
        return generate_latest(self._registry)


class _ServiceCollector(Collector):
    """Asks Redis and storage, once a scrape."""

    def __init__(self, context: AppContext) -> None:
        self._context = context

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is to tell is known when it is asked for."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family; those that come from Redis only while it is there."""
        up = GaugeMetricFamily("spectrain_up", "Whether a part can be reached.", labels=["part"])
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
        yield _counter("jobs_submitted", "Jobs that were accepted.", now.submitted)
        yield GaugeMetricFamily(
            "spectrain_reaper_pass_age_seconds",
            "Time since the reaper last looked for what is lost; infinite where it never did.",
            value=float("inf") if now.reaper_pass_age is None else now.reaper_pass_age,
        )
        yield GaugeMetricFamily(
            "spectrain_dirty_records",
            "Jobs whose changed record has no copy in storage yet.",
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
        "spectrain_pool_wanted", "Workers of a pool that would be busy.", labels=["pool"]
    )
    there = GaugeMetricFamily(
        "spectrain_workers", "Workers of a pool, by what they do.", labels=["pool", "state"]
    )
    gpus = GaugeMetricFamily(
        "spectrain_gpus", "GPUs of a pool, by what their workers do.", labels=["pool", "state"]
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
        "spectrain_attempts_ended", "Attempts that ended, by reason.", labels=["reason"]
    )
    jobs = CounterMetricFamily(
        "spectrain_jobs_ended",
        "Jobs that ended, by state and the reason of their last attempt.",
        labels=["state", "reason"],
    )
    # Those that have not happened yet are 0: of what begins with 1 Prometheus sees no increase.
    none = {f"attempts:{reason}": 0.0 for reason in Reason}
    none |= {f"jobs:{state}:{reason}": 0.0 for reason, state in USUAL_ENDS.items()}
    for name, count in sorted({**none, **counters}.items()):
        kind, *parts = name.split(":")
        if kind == "attempts":
            attempts.add_metric(parts, count)
        elif kind == "jobs":
            jobs.add_metric(parts, count)
    yield from (attempts, jobs)
    for name, words in {
        "steps": "Steps that ended attempts did.",
        "steps_recomputed": "Steps that an earlier attempt had done already.",
        "attempt_seconds": "Run time of the attempts that ended.",
        "useful_seconds": "Time of their steps that no earlier attempt had done.",
        "uploaded_bytes": "Bytes that they published to storage.",
    }.items():
        yield _counter(name, words, counters.get(name, 0.0))
    yield _histogram(
        "detection", "From the last sign of a lost attempt to the verdict.", counters, DETECTION
    )
    yield _histogram("queue", "From the time a job could have run to its claim.", counters, QUEUE)


def _counter(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(f"spectrain_{name}", words, value=value)


def _histogram(
    name: str, words: str, counters: Mapping[str, float], ends: Sequence[float]
) -> Metric:
    buckets, count = [], 0.0
    for end in (*map(str, ends), "+Inf"):
        count += counters.get(f"{name}:{end}", 0.0)
        buckets.append((end, count))
    total = counters.get(f"{name}:sum", 0.0)
    return HistogramMetricFamily(
        f"spectrain_{name}_seconds", words, buckets=buckets, sum_value=total
    )
