"""Measures what open pages cost: 200 dashboards that poll, beside submissions and reads.

The pages ask what the dashboard's list of jobs asks, as often as it does, each over a connection of
its own and with the ETags of the answers that it has. Beside them, and before them without any,
jobs are submitted and lists are read at a moderate rate: their time is what a person notices.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report import Report, options
from bench.system.service import local_service, redis_server
from bench.web.api import SPEC, finished
from bench.web.load import Caller, Pages, fill, measured, percentile
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore

_MS = 50.0


def main(argv: Sequence[str]) -> int:
    """Open the pages and measure; return 1 if a limit is exceeded."""
    arguments = options("pages", pages=200, jobs=10_000, calls=400).parse_args(argv)
    report = Report("pages", vars(arguments))
    with tempfile.TemporaryDirectory() as directory, redis_server(Path(directory)) as config:
        redis = connect(Settings(redis_url=config.url))
        store = JobStore(redis, lease_seconds=15.0)
        fill(store, finished(store), arguments.jobs)
        settings = {"SPECTRAIN_REDIS_URL": config.url}
        with local_service(Path(directory) / "data", workers=0, settings=settings) as service:
            _calls(report, service.url, "alone", arguments)
            with Pages(service.url, arguments.pages).open() as pages:
                time.sleep(5)
                slowest = _calls(report, service.url, f"beside {arguments.pages} pages", arguments)
            for call, took in slowest.items():
                report.bar(f"ms for {call}, p99", took, _MS)
            report.add("a turn of a page", "ms", pages.took)
            report.notes.append(
                f"{pages.polls} turns; a page waited {percentile(pages.late, 0.99):.2f} s for its "
                "turn, p99"
            )
        redis.close()
    return report.show(keep=arguments.keep)


def _calls(report: Report, url: str, where: str, arguments: Any) -> dict[str, float]:
    """The p99 of both calls, milliseconds."""

    def submit(caller: Caller) -> None:
        caller.post("/v1/jobs", SPEC)

    def read(caller: Caller) -> None:
        caller.get("/v1/jobs", limit=50)

    slowest = {}
    for name, call in (("POST", submit), ("GET", read)):
        took, _ = measured(url, call, threads=2, times=arguments.calls, pause=0.08)
        report.add(f"{name} {where}", "ms", took)
        slowest[name] = percentile(took, 0.99)
    return slowest
