"""Measures the API beside 100,000 jobs: submissions, and the list that everybody reads.

`--threads` connections submit jobs as fast as they are answered. Then the list of the newest 50
jobs is read, first alone and then while `--pages` pages of the dashboard poll, and one job is
submitted each second, so that there is something new. The client is a process of its own on the
same machine, and takes a part of its processors.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report import Report, options
from bench.system.service import local_service, redis_server
from bench.web.load import Caller, Pages, fill, measured, percentile
from jobs.model.record import Attempt
from jobs.model.spec import JobSpec
from jobs.model.states import Reason
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore

SPEC = {"name": "wave", "train": {"steps": 2000}, "labels": {"team": "waves"}}
_POSTS_PER_SECOND, _POST_MS, _LIST_MS = 300.0, 50.0, 40.0


def main(argv: Sequence[str]) -> int:
    """Fill a service and measure it; return 1 if a limit is exceeded."""
    arguments = options(
        "api", jobs=100_000, posts=3000, lists=2000, threads=8, pages=20
    ).parse_args(argv)
    report = Report("api", vars(arguments))
    with tempfile.TemporaryDirectory() as directory, redis_server(Path(directory)) as config:
        settings = {"SPECTRAIN_REDIS_URL": config.url}
        redis = connect(Settings(redis_url=config.url))
        store = JobStore(redis, lease_seconds=15.0)
        fill(store, finished(store), arguments.jobs)
        with local_service(Path(directory) / "data", workers=0, settings=settings) as service:
            _measure(report, service.url, arguments)
        redis.close()
    return report.show(keep=arguments.keep)


def _measure(report: Report, url: str, arguments: Any) -> None:
    def submit(caller: Caller) -> None:
        caller.post("/v1/jobs", SPEC)

    def read(caller: Caller) -> None:
        caller.get("/v1/jobs", limit=50)

    for call in (submit, read):
        measured(url, call, threads=2, times=100)
    took, rate = measured(url, submit, threads=arguments.threads, times=arguments.posts)
    report.add("POST /v1/jobs", "ms", took)
    report.add("POST /v1/jobs", "per second", [rate])
    report.bar("s for 300 submissions", _POSTS_PER_SECOND / rate, 1.0)
    report.bar("ms for POST, p99", percentile(took, 0.99), _POST_MS)
    took, rate = measured(url, read, threads=2, times=arguments.lists)
    report.add("GET /v1/jobs?limit=50", "ms", took)
    report.bar("ms for GET, p99", percentile(took, 0.99), _LIST_MS)
    ended = threading.Event()

    def sometimes() -> None:
        caller = Caller(url)
        while not ended.wait(1):
            submit(caller)

    writer = threading.Thread(target=sometimes)
    with Pages(url, arguments.pages, threads=2).open() as pages:
        writer.start()
        time.sleep(3)
        took, _ = measured(url, read, threads=2, times=arguments.lists // 4, pause=0.02)
        ended.set()
        writer.join()
    report.add("GET /v1/jobs?limit=50 beside polls", "ms", took)
    report.bar("ms for GET beside polls, p99", percentile(took, 0.99), _LIST_MS)
    report.notes.append(f"{pages.polls} polls of {arguments.pages} pages")


def finished(store: JobStore) -> str:
    """The id of a job that has run."""
    job = store.submit(JobSpec.model_validate(SPEC))
    claimed = store.claim("default", "w")
    assert claimed is not None
    now = time.time()
    ended = Attempt(
        number=1, worker="w", started_at=now - 60, ended_at=now, reason=Reason.COMPLETED,
        first_step=0, last_step=1999, step_seconds=55.0,
    )  # fmt: skip
    store.finish(job.id, ended)
    return job.id
