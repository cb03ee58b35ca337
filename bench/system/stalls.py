"""Measures whether stalls of Redis and of the object store make the service lose a healthy job.

Real parts: two workers with a job each, the API and its reaper, a Redis that writes every change
to disk, an S3 server. For an hour (`--minutes`) Redis is stopped (SIGSTOP) for ten seconds at
random times, and the store for up to twenty; then Redis is killed for five minutes (`--outage`).
Any second attempt would be a false loss. At the end a worker is killed, and that loss must be
detected: a service that never detects losses does not pass.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import psutil

from api.client.client import Client
from api.local.service import LocalService
from api.schemas import JobView
from bench.report import Report, options
from bench.system.service import local_service, wait_for
from bench.system.store import environment, s3_store
from jobs.model.states import Reason, State

_REDIS_SECONDS = 10.0
_STORE_SECONDS = (1.0, 20.0)
_BETWEEN_SECONDS = (5.0, 30.0)
SCRIPT = """
import os, time, torch
from monitoring import CheckpointManager, MetricsLogger
from monitoring.preemption import install, stop_requested
install()
torch.set_num_threads(1)
root = os.environ["SPECTRAIN_RUN_DIR"]
model = torch.nn.Linear(256, 1024)
optimizer = torch.optim.SGD(model.parameters())
manager = CheckpointManager(root, save_interval=100)
metrics = MetricsLogger(root + "/logs", log_interval=1)
latest = manager.load_latest_checkpoint()
step = latest["step"] + 1 if latest else 0
while not stop_requested():
    time.sleep(0.1)
    metrics.log_metrics(step, {"loss": 1.0})
    if manager.should_checkpoint(step):
        manager.save_checkpoint(step, model, optimizer, [], {})
    step += 1
manager.save_checkpoint(step, model, optimizer, [], {})
manager.wait()
"""


@dataclass
class Stalls:
    """Stops a process with SIGSTOP for a while at random times, in a thread of its own."""

    name: str
    pid: int
    seconds: tuple[float, float]
    rng: random.Random
    lasted: list[float] = field(default_factory=list)

    def run(self, end: threading.Event) -> None:
        """Runs until `end` is set, and leaves the process running."""
        process = psutil.Process(self.pid)
        while not end.wait(self.rng.uniform(*_BETWEEN_SECONDS)):
            seconds, start = self.rng.uniform(*self.seconds), time.monotonic()
            process.suspend()
            try:
                end.wait(seconds)
            finally:
                process.resume()
            self.lasted.append(time.monotonic() - start)


def main(argv: Sequence[str]) -> int:
    """Stall both; return 1 if a healthy job was found lost, or a lost one was not."""
    arguments = options("stalls", minutes=60.0, outage=5.0, seed=1).parse_args(argv)
    report = Report("stalls", vars(arguments))
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        with (
            s3_store() as (server, port),
            local_service(data, workers=2, settings=environment(port)) as service,
        ):
            rng = [random.Random(arguments.seed + number) for number in range(2)]
            _measure(
                report,
                service,
                data,
                [
                    Stalls("Redis", service.redis[0], (_REDIS_SECONDS,) * 2, rng[0]),
                    Stalls("the object store", server, _STORE_SECONDS, rng[1]),
                ],
                arguments.minutes * 60,
                arguments.outage * 60,
            )
    return report.show(keep=arguments.keep)


def _measure(
    report: Report,
    service: LocalService,
    data: Path,
    stalls: Sequence[Stalls],
    seconds: float,
    outage: float,
) -> None:
    script = data / "train.py"
    script.write_text(SCRIPT)
    spec = {"name": "steady", "command": ["python", str(script)], "env": {"OMP_NUM_THREADS": "1"}}
    with Client(service.url, timeout=60) as client:
        jobs = [client.submit(spec) for _ in service.workers]
        wait_for(lambda: all(steps_of(client.get(job.id)) > 0 for job in jobs))
        end = threading.Event()
        threads = [threading.Thread(target=stall.run, args=(end,)) for stall in stalls]
        for thread in threads:
            thread.start()
        try:
            end.wait(seconds)
        finally:
            end.set()
            for thread in threads:
                thread.join()
        for stall in stalls:
            report.add(f"stalls of {stall.name}", "s", stall.lasted)
        _restart_redis(service, outage)
        # Longer than the reaper's observation and a lease: any false loss is found by then.
        time.sleep(40.0)
        found = [client.get(job.id) for job in jobs]
        report.add("Redis outage", "s", [outage])
        between = [pause for job in found for pause in pauses(data, job)]
        report.add("from one step of the training to the next", "s", between)
        report.add("of each job, done", "steps", [steps_of(job) for job in found])
        report.bar("longest pause between two steps, s", max(between), 1.0)
        report.bar("attempts beyond the first", sum(job.attempt - 1 for job in found), 0)
        report.bar("jobs that do not run", sum(job.state is not State.RUNNING for job in found), 0)
        missed = 1 - _kill(service, client, jobs)
        report.bar("losses missed of the one at the end", missed, 0)
        for job in jobs:
            client.cancel(job.id)
        for job in jobs:
            client.wait(job.id, timeout=120)


def _restart_redis(service: LocalService, seconds: float) -> None:
    """Kills Redis and restarts it after `seconds`."""
    (pid,) = service.redis
    os.kill(pid, signal.SIGKILL)
    time.sleep(seconds)
    while not service.redis:
        service.tend()


def _kill(service: LocalService, client: Client, jobs: Sequence[JobView]) -> int:
    """The number of attempts found lost after one worker was killed for good."""
    os.kill(service.workers[0], signal.SIGKILL)

    def lost() -> int:
        attempts = [attempt for job in jobs for attempt in client.get(job.id).attempts]
        return sum(attempt.reason is Reason.LOST for attempt in attempts)

    with contextlib.suppress(TimeoutError):
        wait_for(lambda: lost() > 0, seconds=60.0)
    return lost()


def steps_of(job: JobView) -> int:
    """The number of steps in the job's progress."""
    return job.progress.step if job.progress and job.progress.step is not None else 0


def pauses(data: Path, job: JobView) -> list[float]:
    """Seconds between the rows of the running attempt on its scratch disk."""
    (path,) = (data / "scratch").glob(f"**/{job.id}/**/metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    times = [row["timestamp"] for row in rows]
    return [later - earlier for earlier, later in pairwise(times)]
