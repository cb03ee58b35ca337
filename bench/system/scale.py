"""Measures claim, renew and list with 100,000 finished and 10,000 queued jobs in Redis.

Then claims again with as many queued jobs, of one owner and of 2,000.

The service's own calls make the records, on a Redis configured as by `spectrain up`. The time in
Redis is that of all commands of one call in its SLOWLOG; the time that the client waits is reported
as well. Then 1,000 workers renew their jobs' leases and their entries in the registry at the real
rate, and Redis reports the processor time that this took.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count as count_up
from pathlib import Path
from typing import Any

from api.schemas import JobQuery
from api.server.listing import Listing
from bench.report import Report, options, timed
from bench.system.service import redis_server
from jobs.accounts.store import TokenStore
from jobs.model.record import Job, Progress
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry

_AGING_SECONDS = 3600.0
_LEASE_SECONDS = 15.0
# The intervals of a busy worker's calls in seconds: worker.attempt.lease,
# worker.cluster.registration.
_RENEW_SECONDS = _LEASE_SECONDS / 5
_LIMITS_SECONDS = _LEASE_SECONDS
_ENTRY_SECONDS = _LEASE_SECONDS
_PROGRESS = Progress(
    first_step=0, step=1234, total_steps=2000, loss=2.345678, tokens_per_second=34567.8,
    checkpoint_step=1000, restore_seconds=0.123456, first_step_seconds=0.654321,
    step_seconds=123.456, uploaded_bytes=123456789,
)  # fmt: skip
_SPEC: dict[str, Any] = {
    "train": {"steps": 2000, "model": {"type": "wave"}},
    "labels": {"team": "waves"},
}


def main(argv: Sequence[str]) -> int:
    """Fill a store and measure it; return 1 if a limit is exceeded."""
    parser = options(
        "scale", finished=100_000, queued=10_000, workers=1000, calls=2000, seconds=30, owners=2000
    )
    arguments = parser.parse_args(argv)
    report = Report("scale", vars(arguments))
    with tempfile.TemporaryDirectory() as directory, redis_server(Path(directory)) as config:
        redis = connect(Settings(redis_url=config.url))
        store = JobStore(redis, lease_seconds=_LEASE_SECONDS, aging_seconds=_AGING_SECONDS)
        _fill(report, store, arguments.finished, arguments.queued)
        running = _measure_calls(report, store, arguments.calls)
        _measure_workers(report, store, running[: arguments.workers], arguments.seconds)
        redis.close()
    with tempfile.TemporaryDirectory() as directory, redis_server(Path(directory)) as config:
        redis = connect(Settings(redis_url=config.url))
        store = JobStore(redis, lease_seconds=_LEASE_SECONDS, aging_seconds=_AGING_SECONDS)
        _measure_owners(report, store, arguments.queued, arguments.owners, arguments.calls // 4)
        redis.close()
    return report.show(keep=arguments.keep)


def _measure_owners(report: Report, store: JobStore, queued: int, owners: int, calls: int) -> None:
    """Adds the time of a claim by how many owners wait, limited to twice that with one owner."""
    took = {}
    for number in (1, owners):
        store.redis.flushall()
        store.redis.config_set("appendfsync", "no")
        TokenStore(store.redis, store.prefix).limit({f"o{n}": (queued, -1) for n in range(number)})
        rng = random.Random(1)
        for count in range(queued):
            spec = JobSpec(name="wave_rgd_qfe", priority=rng.randrange(10), **_SPEC)
            store.submit(spec, owner=f"o{count % number}")
        store.redis.config_set("appendfsync", "always")
        store.claim("default", "first")  # ranks all owners, once
        claim = partial(_claim, store, count_up())
        took[number] = _measure(report, store, f"claim, owners: {number}", claim, calls)
    ratio = statistics.median(took[owners]) / statistics.median(took[1])
    report.bar(f"Redis for a claim with {owners} owners, by that with one", ratio, 2.0)


def _claim(store: JobStore, numbers: Iterator[int]) -> None:
    assert store.claim("default", f"worker-{next(numbers)}") is not None


def _fill(report: Report, store: JobStore, finished: int, queued: int) -> None:
    """Makes the records; adds the memory that each takes in Redis."""
    rng = random.Random(1)
    store.redis.config_set("appendfsync", "no")  # filling is not measured
    for name, number in (("finished", finished), ("queued", queued)):
        before = store.redis.info("memory")["used_memory"]
        for _ in range(number):
            spec = JobSpec(name="wave_rgd_qfe", priority=rng.randrange(10), **_SPEC)
            store.submit(spec)
            if name == "finished":
                _finish(store, store.claim("default", "worker"))
        taken = store.redis.info("memory")["used_memory"] - before
        report.add(f"memory of a {name} job", "bytes", [taken / max(1, number)])
    store.redis.config_set("appendfsync", "always")


def _finish(store: JobStore, job: Job | None) -> None:
    assert job is not None
    assert job.current is not None
    store.renew(job.id, job.attempt, _PROGRESS)
    ended = job.so_far(job.current, _PROGRESS)
    store.finish(
        job.id, ended.model_copy(update={"reason": Reason.COMPLETED, "ended_at": time.time()})
    )


def _measure_calls(report: Report, store: JobStore, calls: int) -> list[Job]:
    """Adds the time of each call; returns the claimed jobs."""
    running: list[Job] = []

    def claim() -> None:
        job = store.claim("default", f"worker-{len(running)}")
        assert job is not None
        running.append(job)

    def renew() -> None:
        job = random.choice(running)
        store.renew(job.id, job.attempt, _PROGRESS)

    def position() -> None:
        store.queues.position(next(queued))

    _measure(report, store, "claim", claim, calls)
    _measure(report, store, "renew", renew, calls)
    for name, query in {
        "the newest 50 jobs": JobQuery(limit=50),
        "the newest 50 queued jobs": JobQuery(limit=50, state=State.QUEUED),
        "50 finished jobs from the middle": JobQuery(
            limit=50, state=State.SUCCEEDED, cursor="50000"
        ),
    }.items():
        # One that keeps no page from one call to the next.
        page = partial(_page, store, query)
        _measure(report, store, f"list {name}", page, calls // 10)
    queued = store.newest(state=State.QUEUED)
    _measure(report, store, "place in the queue", position, calls // 10)
    return running


def _page(store: JobStore, query: JobQuery) -> object:
    return Listing(store).page(query)


def _measure(
    report: Report, store: JobStore, name: str, call: Callable[[], object], times: int
) -> list[float]:
    """Adds the time of `call` in Redis, limited to 5 ms, and the time that its caller waits.

    Returns the former, ms.
    """
    redis = store.redis
    redis.config_set("slowlog-max-len", 10_000)
    waited = [timed(call) for _ in range(times)]
    report.add(f"{name}: its caller waits", "ms", waited)
    redis.config_set("slowlog-log-slower-than", 0)
    took = []
    for _ in range(times):
        redis.slowlog_reset()
        call()
        commands = redis.slowlog_get(10_000)
        own = [c for c in commands if not c["command"].startswith(b"SLOWLOG")]
        took.append(sum(c["duration"] for c in own) / 1e3)
    redis.config_set("slowlog-log-slower-than", -1)
    report.add(f"{name}: Redis works", "ms", took)
    if not name.startswith("place"):
        report.bar(f"ms of Redis for {name}, p99", statistics.quantiles(took, n=100)[-1], 5.0)
    return took


def _measure_workers(report: Report, store: JobStore, jobs: Sequence[Job], seconds: float) -> None:
    """Adds the processor time of Redis while the workers of `jobs` renew their leases."""
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=_LEASE_SECONDS)

    def renew_entry(job: Job) -> None:
        assert job.worker is not None
        registry.renew(job.worker, pool="default", host="host", gpus=("GPU-0",))

    for job in jobs:
        renew_entry(job)
    # The calls at their rates, evenly spread: (time, period, call, job).
    due = [
        (number / len(jobs) * period, period, call, job)
        for number, job in enumerate(jobs)
        for period, call in (
            (_RENEW_SECONDS, lambda j: store.renew(j.id, j.attempt, _PROGRESS)),
            (_LIMITS_SECONDS, lambda j: store.limits(j.id)),
            (_ENTRY_SECONDS, renew_entry),
        )
    ]
    plan = sorted(
        (first + turn * period, number)
        for number, (first, period, _, _) in enumerate(due)
        for turn in range(int((seconds - first) / period) + 1)
    )
    before, start = _processor_seconds(store), time.monotonic()
    for at, number in plan:
        time.sleep(max(0.0, start + at - time.monotonic()))
        _, _, call, job = due[number]
        call(job)
    elapsed = time.monotonic() - start
    share = (_processor_seconds(store) - before) / elapsed * 100
    report.add(f"calls of {len(jobs)} workers", "/s", [len(plan) / elapsed])
    report.notes.append(f"{len(plan)} calls planned for {seconds:g} s took {elapsed:.1f} s")
    report.bar(f"percent of a core for {len(jobs)} workers that renew leases", share, 10.0)


def _processor_seconds(store: JobStore) -> float:
    found = store.redis.info("cpu")
    return float(found["used_cpu_sys"]) + float(found["used_cpu_user"])
