"""Does a service whose Redis and whose object store stall again and again lose a healthy job?

Real parts: two workers with a job each, the API and its reaper, a Redis that writes every change
to disk, an S3 server. For an hour (`--minutes`) Redis is stopped (SIGSTOP) for ten seconds at
random moments, and the store for up to twenty; then Redis is killed and stays away for five
(`--outage`). Every attempt but the first ones would be a false loss. So that a service which judges
nobody cannot pass, a worker is killed at the end: that loss has to be found.
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
    """Stops a process by SIGSTOP at random moments, for a while each, in a thread of its own."""

    name: str
    pid: int
    seconds: tuple[float, float]
    dice: random.Random
    lasted: list[float] = field(default_factory=list)

    def run(self, end: threading.Event) -> None:
        """Goes on until `end`; the process runs afterwards."""
        process = psutil.Process(self.pid)
        while not end.wait(self.dice.uniform(*_BETWEEN_SECONDS)):
            seconds, start = self.dice.uniform(*self.seconds), time.monotonic()
            process.suspend()
            try:
                end.wait(seconds)
            finally:
                process.resume()
            self.lasted.append(time.monotonic() - start)


def main(argv: Sequence[str]) -> int:
    """Stall both for so long; 1 when a healthy job was taken for lost, or a lost one not."""
    arguments = options("stalls", minutes=60.0, outage=5.0, seed=1).parse_args(argv)
    report = Report("stalls", vars(arguments))
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        with (
            s3_store() as (server, port),
            local_service(data, workers=2, settings=environment(port)) as service,
        ):
            dice = [random.Random(arguments.seed + number) for number in range(2)]
            _measure(
                report,
                service,
                data,
                [
                    Stalls("Redis", service.redis[0], (_REDIS_SECONDS,) * 2, dice[0]),
                    Stalls("the object store", server, _STORE_SECONDS, dice[1]),
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
        _take_away(service, outage)
        # Longer than the reaper watches and a lease lasts: what it takes for lost is so by then.
        time.sleep(40.0)
        found = [client.get(job.id) for job in jobs]
        report.add("Redis away", "s", [outage])
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


def _take_away(service: LocalService, seconds: float) -> None:
    """Kills Redis, and starts it again so much later."""
    (pid,) = service.redis
    os.kill(pid, signal.SIGKILL)
    time.sleep(seconds)
    while not service.redis:
        service.tend()


def _kill(service: LocalService, client: Client, jobs: Sequence[JobView]) -> int:
    """How many attempts were found lost after a worker was killed; it is not started again."""
    os.kill(service.workers[0], signal.SIGKILL)

    def lost() -> int:
        attempts = [attempt for job in jobs for attempt in client.get(job.id).attempts]
        return sum(attempt.reason is Reason.LOST for attempt in attempts)

    with contextlib.suppress(TimeoutError):
        wait_for(lambda: lost() > 0, seconds=60.0)
    return lost()


def steps_of(job: JobView) -> int:
    """The steps that a job says it has made."""
    return job.progress.step if job.progress and job.progress.step is not None else 0


def pauses(data: Path, job: JobView) -> list[float]:
    """Seconds between the rows that the running attempt has written to its scratch disk."""
    (path,) = (data / "scratch").glob(f"**/{job.id}/**/metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    times = [row["timestamp"] for row in rows]
    return [later - earlier for earlier, later in pairwise(times)]
