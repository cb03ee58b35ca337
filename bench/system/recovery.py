"""Measures the time from the loss of a worker to the first new step on another, idle worker.

The service is real, with its default lease, two warm workers and a Redis that writes every change
to disk. The worker that runs the built-in workload repeatedly gets SIGKILL, then SIGTERM; the job
resumes on the other one. All times come from the receipts of the attempts: the training's own step
counter has the time of its first step.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from api.client.client import Client
from api.drill.interruptions import Signal, Target
from api.drill.run import SPEC
from api.local.service import LocalService
from api.schemas import JobView
from bench.report import Report, options
from bench.system.service import local_service, wait_for
from jobs.model.states import State
from jobs.model.workers import Worker, WorkerState
from jobs.settings import Settings

# The fork server of a worker has imported torch when it is this large and computes no more.
_WARM_BYTES = 100 << 20
_PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Recovery:
    """The cost of one interruption in seconds."""

    all: float  # from the signal to the end of the first new step
    end: float  # from the signal to the end of the attempt in the record
    queue: float
    restore: float
    start: float  # from the claim to the end of the first step, the restore included
    recomputed: int


def main(argv: Sequence[str]) -> int:
    """Interrupt and measure; return 1 if a limit is exceeded."""
    arguments = options("recovery", kills=12, stops=20).parse_args(argv)
    lease = Settings(lease_seconds=15.0).lease_seconds
    report = Report("recovery", {**vars(arguments), "lease_seconds": lease})
    kill = _measure(report, "SIGKILL", signal.SIGKILL, arguments.kills, lease)
    stop = _measure(report, "SIGTERM", signal.SIGTERM, arguments.stops, lease)
    report.bar("s from SIGKILL to the first new step, p50", kill["all"], 2.0)
    report.bar("s of it to restore and start, warm, p50", kill["start"], 1.0)
    report.bar("s from SIGTERM to the first new step elsewhere, p50", stop["all"], 2.0)
    return report.show(keep=arguments.keep)


def _measure(
    report: Report, name: str, number: signal.Signals, times: int, lease: float
) -> dict[str, float]:
    """Adds the cost of `times` such signals to the worker; returns the medians by field."""
    settings = {"SPECTRAIN_LEASE_SECONDS": f"{lease:g}"}
    spec: dict[str, Any] = SPEC.model_dump(mode="json", exclude_unset=True)
    spec["train"]["steps"] = 10**6
    with (
        tempfile.TemporaryDirectory() as directory,
        local_service(Path(directory), workers=2, settings=settings) as service,
        Client(service.url) as client,
    ):
        job = client.submit(spec)
        found = [_recovery(service, client, job.id, number) for _ in range(times)]
        client.cancel(job.id)
        client.wait(job.id, timeout=_PATIENCE_SECONDS)
    rows = {
        "all": "to the first new step",
        "end": "to the end of the attempt",
        "queue": "in the queue",
        "restore": "to restore",
        "start": "from the claim to the first new step",
    }
    medians = {
        field: report.add(f"{name}: {title}", "s", [getattr(each, field) for each in found])
        for field, title in rows.items()
    }
    report.add(f"{name}: recomputed", "steps", [each.recomputed for each in found])
    return medians


def is_warm(worker: Worker) -> bool:
    """Whether the worker's fork server waits for a job."""
    try:
        for process in psutil.Process(int(worker.name.split("-")[-2])).children():
            if "worker.launch.fork_server" in process.cmdline():
                before = sum(process.cpu_times()[:2])
                time.sleep(0.5)
                computed = sum(process.cpu_times()[:2]) - before
                return computed == 0 and process.memory_info().rss > _WARM_BYTES
    except psutil.Error:
        pass
    return False


def _recovery(
    service: LocalService, client: Client, job_id: str, number: signal.Signals
) -> Recovery:
    """Sends the signal to the job's worker and waits for the job's first step on another one."""
    striker = Signal(service, Target.WORKER, number)

    def ready() -> bool:
        """Whether the job has a checkpoint of this attempt, and another worker is warm and idle."""
        service.tend()
        workers, job = client.workers(), client.get(job_id)
        warm = any(is_warm(w) for w in workers if w.state is WorkerState.IDLE)
        saved = job.progress is not None and (job.progress.checkpoint_step or -1) > (
            -1 if job.progress.resumed_from is None else job.progress.resumed_from
        )
        return warm and saved and job.state is State.RUNNING

    wait_for(ready, _PATIENCE_SECONDS)
    before, struck = client.get(job_id), time.time()
    if striker.strike(before) is None:
        raise RuntimeError(f"the worker of job {job_id} does not exist")

    def resumed() -> JobView | None:
        time.sleep(0.05)
        job = client.get(job_id)
        done = job.progress.first_step_seconds if job.progress else None
        return job if job.attempt > before.attempt and done is not None else None

    wait_for(resumed, _PATIENCE_SECONDS)
    job = client.get(job_id)
    ended, now, progress = job.attempts[-2], job.attempts[-1], job.progress
    assert progress is not None
    start = progress.first_step_seconds or 0.0
    return Recovery(
        all=now.started_at + start - struck,
        end=(ended.ended_at or 0.0) - struck,
        queue=now.queue_seconds or 0.0,
        restore=progress.restore_seconds or 0.0,
        start=start,
        recomputed=max(0, (ended.last_step or 0) - (progress.resumed_from or 0)),
    )
