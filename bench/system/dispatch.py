"""Measures the time from `POST /v1/jobs` to the first line of the script on an idle worker.

The service is real: API, reaper and one worker as processes, and a Redis that writes every change
to disk before it answers. The script's first line records the time. For comparison: the same
without warm start, and the round trip of a trivial Celery task on the same Redis. Then a thousand
jobs are submitted back to back while no worker runs, and claimed one by one.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from redis import Redis

from api.client.client import Client
from api.local.service import LocalService
from bench.report import Report, options, timed
from bench.system import celery_echo
from bench.system.service import TIMEOUT_SECONDS, local_service, redis_server, wait_for
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore
from machine.python import python_module

_SCRIPT = """import time; first = time.time()
import os, sys
warm = "torch" in sys.modules
import torch; imported = time.time()
with open(os.environ["STAMP"] + ".new", "w") as file:
    file.write(f"{first!r} {imported!r} {int(warm)}")
os.replace(file.name, os.environ["STAMP"])
"""
# A worker is idle at most this long after its last job.
_IDLE_SECONDS = 0.3


def main(argv: Sequence[str]) -> int:
    """Measure warm, cold, Celery, and the order of the queue; return 1 if a limit is exceeded."""
    arguments = options("dispatch", jobs=40, queued=1000).parse_args(argv)
    cores = len(os.sched_getaffinity(0))
    report = Report("dispatch", {**vars(arguments), "cores": cores})
    with tempfile.TemporaryDirectory() as directory, redis_server(Path(directory)) as redis:
        data, url = Path(directory), redis.url
        warm = _measure(report, data, url, arguments.jobs, warm=True)
        _measure(report, data, url, max(5, arguments.jobs // 2), warm=False)
        report.add("Celery: a trivial task and its result", "ms", _echo(url, 10 * arguments.jobs))
        _measure_order(report, data, url, arguments.queued)
    report.bar("ms from POST to the first line, warm, p50", warm, 60.0)
    return report.show(keep=arguments.keep)


def _measure(report: Report, directory: Path, url: str, jobs: int, *, warm: bool) -> float:
    """Adds the milliseconds of `jobs` dispatches, in total and by stage; returns the median."""
    name = "warm" if warm else "cold"
    stamp, script = directory / f"stamp-{name}", directory / "script.py"
    script.write_text(_SCRIPT)
    spec = {"name": name, "command": ["python", str(script)], "env": {"STAMP": str(stamp)}}
    stages: dict[str, list[float]] = {
        "POST to the first line": [],
        "  POST to the record on disk": [],
        "  record to the claim": [],
        "  claim to the first line": [],
        "POST to the line after `import torch`": [],
    }
    settings = {"SPECTRAIN_REDIS_URL": url, "SPECTRAIN_WARM_START": str(int(warm))}
    with _service(directory / name, 1, settings) as service, Client(service.url) as client:

        def dispatch() -> bool:
            """Takes one measure; returns whether the script ran warm."""
            stamp.unlink(missing_ok=True)
            posted = time.time()
            job = client.submit(spec)
            wait_for(stamp.exists)
            first, imported, is_warm = (float(field) for field in stamp.read_text().split())
            client.wait(job.id, TIMEOUT_SECONDS, poll=0.02)
            events = {event.type: event.at for event in client.events(job.id)}
            recorded, claimed = events["submitted"], events["started"]
            spans = [(posted, first), (posted, recorded), (recorded, claimed), (claimed, first),
                     (posted, imported)]  # fmt: skip
            for taken, (start, end) in zip(stages.values(), spans, strict=True):
                taken.append((end - start) * 1e3)
            time.sleep(_IDLE_SECONDS)
            return bool(is_warm)

        wait_for(lambda: dispatch() == warm)
        for taken in stages.values():
            taken.clear()
        for _ in range(jobs):
            assert dispatch() == warm
    medians = [report.add(f"{name}: {stage}", "ms", taken) for stage, taken in stages.items()]
    whole = sorted(stages["POST to the first line"])
    report.notes.append(f"{name}: p95 {statistics.quantiles(whole, n=20)[-1]:.1f} ms")
    return medians[0]


def _echo(url: str, times: int) -> list[float]:
    """Milliseconds of `times` round trips of a trivial Celery task."""
    environment = {**os.environ, celery_echo.VARIABLE: url}
    command = python_module("celery", "--quiet", "-A", celery_echo.__name__, "worker",
                            "--pool=threads", "--concurrency=1", "--loglevel=ERROR")  # fmt: skip
    worker = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL)  # fmt: skip
    app = celery_echo.app
    app.conf.update(broker_url=url, result_backend=url)
    try:
        celery_echo.echo.delay(0).get(timeout=TIMEOUT_SECONDS)
        return [timed(lambda: celery_echo.echo.delay(1).get(timeout=10)) for _ in range(times)]
    finally:
        app.close()
        worker.terminate()
        worker.wait()


def _measure_order(report: Report, directory: Path, url: str, jobs: int) -> None:
    """Submits `jobs` while no worker runs, and claims them until none is left."""
    settings = {"SPECTRAIN_REDIS_URL": url}
    with _service(directory / "order", 0, settings) as service, Client(service.url) as client:
        submitted: list[str] = []

        def submit() -> None:
            submitted.append(client.submit({"name": "a", "command": ["true"]}).id)

        report.add("POST to its answer", "ms", [timed(submit) for _ in range(jobs)])
        redis = connect(Settings(redis_url=url))
        store = JobStore(redis, lease_seconds=600)
        claimed: list[str] = []
        while (job := store.claim("default", f"worker-{len(claimed)}")) is not None:
            claimed.append(job.id)
        redis.close()
    moved = sum(a != b for a, b in zip(submitted, claimed, strict=False))
    report.bar(f"of {jobs} jobs lost", len(set(submitted) - set(claimed)), 0)
    report.bar(f"of {jobs} jobs claimed twice", len(claimed) - len(set(claimed)), 0)
    report.bar(f"of {jobs} jobs claimed out of order", moved, 0)


@contextlib.contextmanager
def _service(data: Path, workers: int, settings: Mapping[str, str]) -> Iterator[LocalService]:
    """The running service, with an empty Redis."""
    with Redis.from_url(settings["SPECTRAIN_REDIS_URL"]) as redis:
        redis.flushall()
    with local_service(data, workers=workers, settings=settings) as service:
        yield service
