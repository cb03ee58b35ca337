"""Measures what clients cost that do nothing: half a request, no request, a download nobody reads.

The list of jobs is read from two connections, first alone, then beside one kind after the other.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bench.report import Report, options
from bench.system.service import local_service, redis_server
from bench.web.api import finished
from bench.web.load import Caller, fill, measured, percentile
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore

_MS = 50.0
_FILE_BYTES = 64 << 20
_HALF = b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


def main(argv: Sequence[str]) -> int:
    """Connect the clients and measure; return 1 if a limit is exceeded."""
    arguments = options("slow", half=500, idle=500, downloads=150, jobs=1000, calls=1000)
    given = arguments.parse_args(argv)
    report = Report("slow", vars(given))
    with tempfile.TemporaryDirectory() as directory, redis_server(Path(directory)) as config:
        redis = connect(Settings(redis_url=config.url))
        store = JobStore(redis, lease_seconds=15.0)
        job_id = finished(store)
        fill(store, job_id, given.jobs)
        data = Path(directory) / "data"
        settings = {"SPECTRAIN_REDIS_URL": config.url}
        with local_service(data, workers=0, settings=settings) as service, ExitStack() as stack:
            run = data / "experiments" / job_id
            run.mkdir(parents=True)
            (run / "large.bin").write_bytes(bytes(_FILE_BYTES))
            download = f"GET /v1/jobs/{job_id}/artifacts.zip HTTP/1.1\r\nHost: localhost\r\n\r\n"
            _reads(report, service.url, "alone", given.calls)
            for count, kind, sent in (
                (given.half, "half a request", _HALF),
                (given.idle, "no request", b""),
                (given.downloads, "a download", download.encode()),
            ):
                stack.enter_context(_connected(service.url, count, sent))
                took = _reads(report, service.url, f"and {count} with {kind}", given.calls)
                report.bar(f"ms for GET and {count} with {kind}, p99", took, _MS)
        redis.close()
    return report.show(keep=given.keep)


def _reads(report: Report, url: str, beside: str, calls: int) -> float:
    """The time of a GET that 99 % do not exceed, ms."""

    def read(caller: Caller) -> None:
        caller.get("/v1/jobs", limit=50)

    took, _ = measured(url, read, threads=2, times=calls, pause=0.005)
    report.add(f"GET {beside}", "ms", took)
    slowest = percentile(took, 0.99)
    report.notes.append(f"GET {beside}: p99 {slowest:.1f} ms")
    return slowest


@contextmanager
def _connected(url: str, count: int, sent: bytes) -> Iterator[None]:
    """Clients that have sent something, and then wait."""
    parts = urlsplit(url)
    with ExitStack() as stack:
        for _ in range(count):
            client = socket.create_connection((str(parts.hostname), parts.port), timeout=20)
            stack.enter_context(closing(client))
            client.sendall(sent)
            if sent.endswith(b"\r\n\r\n"):
                client.recv(100)
        yield
