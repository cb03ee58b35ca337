"""Measures whether a ten-minute outage of the object store costs a training step.

Real parts: the API, one worker, an S3 server, and a proxy to it that refuses connections for a
while. The job makes a step every tenth of a second, logs it, and saves every ten seconds. Its steps
are compared with those of the minute before; all delayed files must be in the store afterwards.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from api.client.client import Client
from bench.report import Report, options
from bench.system.service import local_service, wait_for
from bench.system.stalls import SCRIPT
from bench.system.store import Proxy, environment, s3_store
from monitoring.checkpoints import commit
from monitoring.paths import RunPaths
from monitoring.storage.base import Storage
from monitoring.storage.open import open_storage
from worker.files.scratch import Scratch

_SAVING_SECONDS = 10.0  # the script's interval


def main(argv: Sequence[str]) -> int:
    """Cut the store off; return 1 if a step was lost or a file did not arrive afterwards."""
    arguments = options("away", minutes=10.0, before=60.0).parse_args(argv)
    report = Report("away", vars(arguments))
    with tempfile.TemporaryDirectory() as directory, s3_store() as (_, port):
        data, proxy = Path(directory), Proxy(port)
        settings = environment(proxy.port)
        os.environ.update(environment(port))  # for this process
        storage = open_storage(settings["SPECTRAIN_STORAGE_URL"])
        with (
            local_service(data, workers=1, settings=settings) as service,
            Client(service.url, timeout=60) as client,
        ):
            _measure(report, client, data, proxy, storage, arguments)
    return report.show(keep=arguments.keep)


def _measure(
    report: Report, client: Client, data: Path, proxy: Proxy, storage: Storage, chosen: Namespace
) -> None:
    script = data / "train.py"
    script.write_text(SCRIPT)
    spec = {"name": "steady", "command": ["python", str(script)], "env": {"OMP_NUM_THREADS": "1"}}
    job = client.submit(spec)
    wait_for(lambda: storage.stat(f"{job.id}/logs/metrics.jsonl"))
    run = Scratch.usual(data / "scratch", job.id, 1).run
    wait_for(lambda: commit.committed(run.checkpoints))

    def newest() -> commit.CommitRecord:
        return max((record for record, _ in commit.committed(run.checkpoints)), key=_time)

    time.sleep(chosen.before)
    start = time.time()
    proxy.close()
    time.sleep(chosen.minutes * 60)
    end, saved = time.time(), newest()
    there = storage.list(f"{job.id}/checkpoints")
    report.bar(
        "files that arrived during the outage", sum(f.modified > start + 1 for f in there), 0
    )
    proxy.open()
    opened = time.monotonic()
    wait_for(lambda: storage.stat(f"{job.id}/checkpoints/checkpoint_step_{saved.step}.pt.json"))
    report.add("until the newest delayed checkpoint arrived", "s", [time.monotonic() - opened])
    rows = _rows(run)
    wait_for(lambda: _stored(storage, job.id) >= len(rows))
    report.add("until all delayed rows arrived", "s", [time.monotonic() - opened])

    pauses = [(later, later - earlier) for earlier, later in pairwise(rows)]
    usual = report.add(
        "from one step to the next, before", "s", [p for at, p in pauses if at < start]
    )
    away = [pause for at, pause in pauses if start <= at < end]
    median = report.add("from one step to the next, during the outage", "s", away)
    report.bar("a step, times of one before", median / usual, 1.03)
    report.bar("longest pause between two steps, s", max(away), 1.0)
    report.bar("attempts beyond the first", client.get(job.id).attempt - 1, 0)
    report.bar("seconds since the last save", end - saved.time, 2 * _SAVING_SECONDS)
    client.cancel(job.id)
    client.wait(job.id, timeout=120)


def _time(record: commit.CommitRecord) -> float:
    return record.time


def _rows(run: RunPaths) -> list[float]:
    """The time of each step."""
    return [json.loads(line)["timestamp"] for line in run.metrics.read_bytes().splitlines()]


def _stored(storage: Storage, job_id: str) -> int:
    return storage.read(f"{job_id}/logs/metrics.jsonl").count(b"\n")
