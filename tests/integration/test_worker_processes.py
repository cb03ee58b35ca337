"""Real worker processes: how they stop, drain and receive requests, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from jobs.messages import Messenger
from jobs.model.change import JobChange
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request, State
from jobs.model.workers import WorkerState
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from machine.python import python_module
from monitoring.paths import RunPaths
from monitoring.preemption import TOGETHER_SECONDS
from tests.integration.one_worker import OwnRedis
from tests.integration.warm_python import WarmPython
from tests.integration.worker_processes import Workers
from worker.healthcheck import running_workers, verdict

Wait = Callable[..., Any]
SPEC = JobSpec(name="a", command=["true"])
NAPPING = JobSpec(name="nap", command=["sleep", "600"])


def test_a_worker_without_a_scratch_disk_fails_no_job_and_takes_them_when_there_is_one(
    workers: Workers,
    registry: WorkerRegistry,
    store: JobStore,
    messenger: Messenger,
    settings: Settings,
    wait_until: Wait,
) -> None:
    process = workers.start()
    wait_until(registry.workers, what="the worker")
    assert verdict([process.pid], socket.gethostname(), registry.workers()) == ""
    wait_until(lambda: not any(settings.scratch_dir.iterdir()), what="a tidy directory")
    settings.scratch_dir.rmdir()
    settings.scratch_dir.write_text("no directory")
    jobs = [store.submit(SPEC) for _ in range(3)]
    messenger.flush(store.now())
    worker = wait_until(
        lambda: next((w for w in registry.workers() if w.state is WorkerState.UNHEALTHY), None),
        what="the worker's log line",
    )
    assert "its scratch disk" in worker.reason
    assert verdict([process.pid], socket.gethostname(), registry.workers()) == worker.reason
    assert [store.get(job.id).attempt for job in jobs] == [0, 0, 0]
    settings.scratch_dir.unlink()
    for job in jobs:
        wait_until(lambda: store.get(job.id).state is State.SUCCEEDED, what="its end")  # noqa: B023
    assert [store.get(job.id).attempt for job in jobs] == [1, 1, 1]


def test_a_worker_that_ends_leaves_the_registry_and_one_that_is_killed_expires(
    workers: Workers, registry: WorkerRegistry, wait_until: Wait
) -> None:
    # By the command, which finds them.
    leaving, killed = (
        subprocess.Popen(python_module("worker"), env=workers.environment) for _ in range(2)
    )
    try:
        wait_until(lambda: len(registry.workers()) == 2, what="both workers")
        assert {leaving.pid, killed.pid} <= set(running_workers())
        killed.send_signal(signal.SIGSTOP)
        wait_until(lambda: killed.pid not in running_workers(), what="a worker that stands still")
        killed.kill()
        leaving.terminate()
        assert leaving.wait(30) == 0
    finally:
        for process in (leaving, killed):
            process.kill()
            process.wait()
    wait_until(lambda: not registry.workers(), what="an empty registry", seconds=20)
    kept = registry._redis.keys(registry._keys.worker("*"))
    assert len(kept) == 1, "only the killed one's is kept"


def test_a_drained_worker_leaves_the_jobs_to_others_and_goes_on_when_undrained(
    workers: Workers,
    registry: WorkerRegistry,
    store: JobStore,
    messenger: Messenger,
    wait_until: Wait,
) -> None:
    workers.start()
    (first,) = wait_until(registry.workers, what="the worker")
    running = store.submit(JobSpec(name="b", command=["sleep", "2"]))
    messenger.flush(store.now())
    wait_until(lambda: store.get(running.id).state is State.RUNNING, what="a start")
    registry.drain(first.name)
    waiting = [store.submit(SPEC) for _ in range(3)]
    messenger.flush(store.now())
    queue = store.keys.queue("default")
    wait_until(lambda: store.get(running.id).state is State.SUCCEEDED, what="the end of its job")
    # It takes one message, hands it on, and leaves them all in the queue for others. The reaper may
    # have sent some at the same time as the test: twice does no harm.
    wait_until(lambda: "is drained" in workers.log(), what="its log line")
    wait_until(lambda: store.redis.llen(queue) >= 3, what="the messages")
    assert {store.get(job.id).state for job in waiting} == {State.QUEUED}
    workers.start()
    wait_until(lambda: store.get(waiting[2].id).state is State.SUCCEEDED, what="another worker")
    names = {store.get(job.id).attempts[0].worker for job in waiting}
    assert first.name not in names
    os.kill(workers.started[1].pid, signal.SIGTERM)
    assert workers.started[1].wait(30) == 0
    last = store.submit(SPEC)
    messenger.flush(store.now())
    registry.undrain(first.name)
    wait_until(lambda: store.get(last.id).state is State.SUCCEEDED, what="the undrained worker")
    registry.drain(first.name)
    os.kill(workers.started[0].pid, signal.SIGTERM)
    assert workers.started[0].wait(30) == 0


def test_signals_that_come_together_wait_for_the_child_to_save_and_a_later_one_kills_it(
    workers: Workers,
    registry: WorkerRegistry,
    store: JobStore,
    messenger: Messenger,
    wait_until: Wait,
    tmp_path: Path,
) -> None:
    worker = workers.start(SPECTRAIN_GRACE_SECONDS="600")
    wait_until(registry.workers, what="the worker")
    signalled, ready = tmp_path / "signalled", tmp_path / "ready"
    script = f"trap 'touch {signalled}' TERM; echo $$ > {ready}; while true; do sleep 0.05; done"
    job = store.submit(JobSpec(name="stubborn", command=["sh", "-c", script]))
    messenger.flush(store.now())
    wait_until(lambda: ready.exists() and ready.read_text(), what="the child with its trap set")
    child = psutil.Process(int(ready.read_text()))
    os.kill(worker.pid, signal.SIGTERM)
    wait_until(signalled.exists, what="the first SIGTERM at the child")
    leaving = wait_until(
        lambda: [w for w in registry.workers() if w.state is WorkerState.DRAINING],
        what="its log line",
    )
    assert (leaving[0].job, leaving[0].reason) == (job.id, "it was told to stop")
    began = time.monotonic()
    for _ in range(3):  # as a service manager, a supervisor and the machine's shutdown send it
        os.kill(worker.pid, signal.SIGTERM)
        time.sleep(0.5)
    assert worker.poll() is None
    assert child.is_running()
    while time.monotonic() - began < TOGETHER_SECONDS:
        time.sleep(0.1)
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait(30) == 0
    assert not child.is_running()
    ended = store.get(job.id)
    assert (ended.state, ended.reason) == (State.QUEUED, Reason.PREEMPTED)
    assert ended.attempts[0].exit_code == 137
    assert registry.workers() == []


def outage_logged(workers: Workers, times: int) -> bool:
    """Whether both workers have logged `times` outages, and Celery the first one."""
    log = workers.logs()
    noticed = log.count("cannot reach the worker registry") == 2 * times
    return noticed and "Connection to broker lost" in log


def test_redis_away_twice_costs_no_worker_fills_no_log_and_leaves_the_registry_right(
    settings: Settings,
    own_redis: OwnRedis,
    warm_python: WarmPython,
    wait_until: Wait,
) -> None:
    config, start = own_redis
    redis = start()
    settings = settings.model_copy(update={"redis_url": config.url, "lease_seconds": 1})
    workers = Workers(settings, warm_python)
    with connect(settings) as client:
        store = JobStore(client, lease_seconds=1)
        registry = WorkerRegistry(client, prefix="spectrain:", lease_seconds=1)
        messenger = Messenger(settings, store)
        try:
            running = [workers.start(), workers.start()]
            wait_until(lambda: len(registry.workers()) == 2, what="the workers")
            job = store.submit(NAPPING)
            messenger.flush(store.now())
            wait_until(lambda: store.get(job.id).worker, what="the job")
            before = registry.workers()
            assert {worker.state for worker in before} == {WorkerState.BUSY, WorkerState.IDLE}
            for outage in (1, 2):
                redis.kill()
                redis.wait()
                wait_until(
                    lambda n=outage: outage_logged(workers, n), what="the workers' log lines"
                )
                redis = start()
                store.redis.delete(store.keys.workers)
                wait_until(lambda: registry.workers() == before, what="the registry as it was")
            assert [worker.poll() for worker in running] == [None, None]
            assert store.get(job.id).state is State.RUNNING
            log = workers.logs()
            assert "Traceback" not in log, log
            assert "Cannot connect" not in log, "Celery logs each of its tries"
        finally:
            workers.stop()
            messenger.close()


def test_a_request_is_read_at_once_however_rarely_the_lease_is_renewed(
    workers: Workers,
    registry: WorkerRegistry,
    store: JobStore,
    messenger: Messenger,
    wait_until: Wait,
) -> None:
    workers.start(SPECTRAIN_LEASE_SECONDS="3000")  # renewed every ten minutes
    wait_until(registry.workers, what="the worker")
    job = store.submit(NAPPING)
    messenger.flush(store.now())

    def preempted(attempt: int) -> bool:
        return store.get(job.id).attempt > attempt

    for attempt in (1, 2):
        wait_until(lambda n=attempt: store.get(job.id).attempt == n, what="a start")
        store.request(job.id, Request.PREEMPT)
        wait_until(lambda n=attempt: preempted(n), what="the next attempt")
        # A request made while the worker does not listen is read when it listens again.
        store.redis.client_kill_filter(_type="pubsub")
    store.change(job.id, JobChange.model_validate({"limits": {"run_seconds": 0.1}}))
    wait_until(lambda: store.get(job.id).state is State.FAILED, what="the new limit")
    assert store.get(job.id).reason is Reason.TIMEOUT


def test_a_worker_that_wakes_up_after_its_job_was_taken_from_it_publishes_nothing(
    workers: Workers,
    store: JobStore,
    messenger: Messenger,
    settings: Settings,
    tmp_path: Path,
    wait_until: Wait,
) -> None:
    script = (
        "import os, pathlib, time\n"
        "print('up', flush=True)\n"
        f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.01)\n"
        "pathlib.Path(os.environ['SPECTRAIN_RUN_DIR'], 'model.bin').write_text('late')\n"
    )
    job = store.submit(JobSpec(name="a", command=["python", "-c", script]))
    worker = workers.start(SPECTRAIN_LEASE_SECONDS="1")
    messenger.flush(store.now())
    run = RunPaths(Path(settings.storage_url.removeprefix("file://")) / job.id)
    wait_until(lambda: run.output_log.exists() and "up" in run.output_log.read_text(), what="it")
    before = run.output_log.read_text()

    os.kill(worker.pid, signal.SIGSTOP)
    (tmp_path / "go").touch()
    current = wait_until(lambda: store.get(job.id).attempts[-1], what="its attempt")
    lost = current.model_copy(update={"reason": Reason.LOST, "ended_at": store.now()})
    # No newer attempt follows, whose fencing number would refuse what the old one writes.
    lease = wait_until(lambda: store.queues.expired_leases(store.now()), what="its lease's end")[0]
    assert store.finish(job.id, lost, lease=lease) is not None
    store.request(job.id, Request.CANCEL)

    os.kill(worker.pid, signal.SIGCONT)
    wait_until(lambda: "was overtaken" in workers.logs(), what="the worker's log line")
    assert run.output_log.read_text() == before
    assert not (run.root / "model.bin").exists()
    # Written by whoever keeps the records, as the record has it.
    wait_until(lambda: run.attempt(1).exists(), what="its receipt")
    assert json.loads(run.attempt(1).read_text())["reason"] == "lost"
    assert store.get(job.id).state is State.CANCELLED
