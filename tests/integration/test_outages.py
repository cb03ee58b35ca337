"""Redis or storage away under a running attempt, at its start and at its end; and who is lost."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.errors import StaleAttemptError
from jobs.messages import Messenger
from jobs.model.record import Job
from jobs.model.rules import lost_attempt
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State
from jobs.reaper.reaper import Reaper
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore
from jobs.store.keys import Keys
from machine.python import python_module
from tests.integration.one_worker import BEATS, Bench, OwnRedis, python, worker_settings
from tests.processes import command_line
from worker.attempt.lease import Lease

Wait = Callable[..., Any]


def test_redis_away_longer_than_the_lease_costs_no_step_and_no_attempt(
    settings: Settings, own_redis: OwnRedis, wait_until: Wait
) -> None:
    config, start = own_redis
    redis = start()
    settings = settings.model_copy(update={"redis_url": config.url, "lease_seconds": 1})
    client = connect(settings)
    bench = Bench(settings, JobStore(client, lease_seconds=1))
    script = BEATS + "for step in range(60): step_counter.beat(step); print(step, flush=True); "
    job = bench.claim(python(script + "time.sleep(0.1)"))
    thread = bench.begin(job)
    wait_until(lambda: "[1] 9\n" in bench.output(job), what="some steps")
    redis.kill()
    redis.wait()
    wait_until(lambda: "[1] 40\n" in bench.output(job), what="steps without Redis")
    start()
    thread.join(60)
    job = bench.store.get(job.id)
    assert (job.state, job.attempt, job.attempts[0].last_step) == (State.SUCCEEDED, 1, 59)
    bench.service.messenger.close()
    client.close()


def test_a_worker_that_woke_up_knows_that_its_attempt_counts_only_when_redis_has_said_so(
    settings: Settings, own_redis: OwnRedis, wait_until: Wait
) -> None:
    config, start = own_redis
    redis = start()
    settings = settings.model_copy(update={"redis_url": config.url, "lease_seconds": 1})
    client = connect(settings)
    store = JobStore(client, lease_seconds=1)
    bench = Bench(settings, store)
    job = bench.claim(python(""))
    lease = Lease(bench.service, job)
    try:
        assert lease.confirm(time.monotonic())
        redis.kill()
        redis.wait()
        asleep_since = time.monotonic()
        assert not lease.confirm(asleep_since), "it may have been taken away meanwhile"
        lease.start()
        wait_until(lambda: lease.confirm(time.monotonic()), what="that Redis is known to be away")
        assert not lease.confirm(asleep_since), "it went away while this process was asleep"
        lease.stop()
        start()
        lost = lost_attempt(store.get(job.id), store.now(), 1.0)
        assert store.finish(job.id, lost) is not None
        with pytest.raises(StaleAttemptError):
            Lease(bench.service, job).confirm(time.monotonic())
    finally:
        bench.service.messenger.close()
        client.close()


def test_storage_away_costs_no_step_and_no_line(
    bench: Bench, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory's disk is full: every write to it fails, for a while."""
    job = bench.claim(python(
        "import time\nfor n in range(60): print(n, flush=True); time.sleep(0.1)"
    ))  # fmt: skip
    thread = bench.begin(job)
    wait_until(lambda: "[1] 9\n" in bench.output(job), what="some lines")
    away = bench.storage.root.with_name("away")
    bench.storage.root.rename(away)
    bench.storage.root.write_text("not a directory")
    wait_until(lambda: not thread.is_alive() or _printed(bench, job, 40), what="lines meanwhile")
    bench.storage.root.unlink()
    away.rename(bench.storage.root)
    thread.join(60)
    job = bench.store.get(job.id)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 1)
    lines = [line for line in bench.output(job).splitlines() if "---" not in line]
    assert lines == [f"[1] {n}" for n in range(60)]


def test_storage_away_at_the_start_is_waited_for(bench: Bench, wait_until: Wait) -> None:
    bench.storage.root.parent.mkdir(exist_ok=True)
    bench.storage.root.write_text("not a directory")
    job = bench.claim(python("print('up')"))
    thread = bench.begin(job)
    thread.join(1)
    assert thread.is_alive()
    bench.storage.root.unlink()
    thread.join(30)
    job = bench.store.get(job.id)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 1)


def _printed(bench: Bench, job: Job, line: int) -> bool:
    output = bench.settings.scratch_dir / job.id / "0" / "output"
    return output.exists() and f"{line}\n" in output.read_text()


def test_a_worker_without_redis_waits_and_says_so_and_then_works(
    settings: Settings,
    own_redis: OwnRedis,
    wait_until: Wait,
    tmp_path: Path,
) -> None:
    config, start = own_redis
    log = tmp_path / "worker.log"
    settings = settings.model_copy(update={"redis_url": config.url})
    environment = {"PATH": "/usr/bin:/bin", **worker_settings(settings)}
    with log.open("wb") as file:
        worker = subprocess.Popen(
            python_module("worker"), env=environment, stderr=file, stdout=file
        )
    try:
        where = f"cannot reach Redis at 127.0.0.1:{config.port}, retrying"
        wait_until(lambda: where in log.read_text(), what="the worker's log line")
        assert worker.poll() is None
        start()
        client = connect(settings)
        store = JobStore(client, lease_seconds=3)
        jobs = [store.submit(JobSpec(name="a", command=["true"])).id for _ in range(3)]
        store.redis.delete(store.keys.outbox)  # nothing else wakes the worker
        messenger = Messenger(settings, store)
        messenger.announce("default", jobs[0])
        for job in jobs:  # one message is enough for all
            wait_until(lambda: store.get(job).state is State.SUCCEEDED, what="the job")  # noqa: B023
        messenger.close()
        client.close()
        assert "Traceback" not in log.read_text()
        assert ":".join(config.url.split(":")[2:3]).split("@")[0] not in log.read_text()
        family = psutil.Process(worker.pid).children(recursive=True)
        lines = [command_line(process) for process in family]
        assert {line[3] for line in lines if line} == {
            "worker.launch.fork_server",
            "worker.losses.witness",
        }
    finally:
        worker.terminate()
        worker.wait(30)
    assert worker.returncode == 0
    assert not psutil.wait_procs(family, timeout=10)[1]


def test_a_redis_that_refuses_writes_ends_neither_worker_nor_job(
    settings: Settings,
    own_redis: OwnRedis,
    wait_until: Wait,
    tmp_path: Path,
) -> None:
    config, start = own_redis
    start()
    settings = settings.model_copy(update={"redis_url": config.url, "lease_seconds": 1})
    client = connect(settings)
    store = JobStore(client, lease_seconds=1)
    environment = {
        "PATH": "/usr/bin:/bin",
        **worker_settings(settings),
        "SPECTRAIN_WARM_START": "0",
    }
    log = tmp_path / "worker.log"
    with log.open("wb") as file:
        workers = [
            subprocess.Popen(python_module("worker"), env=environment, stderr=file, stdout=file)
            for _ in range(2)
        ]
    try:
        registered = Keys(settings.redis_prefix).workers
        wait_until(lambda: client.zcard(registered) == 2, what="the workers")
        gate = tmp_path / "gate"
        command = ["sh", "-c", f"until test -e {gate}; do sleep 0.1; done"]
        running = store.submit(JobSpec(name="a", command=command))
        wait_until(lambda: store.get(running.id).state is State.RUNNING, what="its start")
        # As in a failover: readable, and nothing can be written; what waits is thrown out.
        client.replicaof("127.0.0.1", 1)
        wait_until(lambda: "Connection to broker lost" in log.read_text(), what="the refusal")
        wait_until(lambda: store.queues.expired_leases(time.time()), what="an expired lease")
        client.replicaof("NO", "ONE")
        waiting = store.submit(JobSpec(name="b", command=["true"]))
        wait_until(lambda: store.get(waiting.id).state is State.SUCCEEDED, what="the next job")
        gate.touch()
        wait_until(lambda: store.get(running.id).state is State.SUCCEEDED, what="the first job")
        assert store.get(running.id).attempt == 1
        assert [worker.poll() for worker in workers] == [None, None]
        assert "Traceback" not in log.read_text()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        client.close()


@pytest.mark.parametrize("ahead", [0.0, 1e6], ids=["slow storage", "a clock that is ahead"])
def test_neither_slow_storage_nor_a_clock_that_is_ahead_hides_a_lost_attempt(
    bench: Bench, wait_until: Wait, ahead: float
) -> None:
    store = JobStore(bench.store.redis, lease_seconds=0.2)
    job = store.submit(python(""))
    assert store.claim("default", "silent") is not None
    started = store.now()

    def sign(_: Job) -> float:
        threading.Event().wait(0.3)
        return started + ahead

    reaper = Reaper(store, bench.service.messenger, sign)
    wait_until(lambda: reaper.run_once() == [job.id], what="the verdict", seconds=20)


def test_a_reaper_that_cannot_look_at_storage_judges_nobody_and_leaves_that_to_one_that_can(
    bench: Bench, wait_until: Wait
) -> None:
    store = JobStore(bench.store.redis, lease_seconds=0.2)
    job = store.submit(python(""))
    assert store.claim("default", "silent") is not None

    def away(_: Job) -> float:
        raise OSError("Stale file handle")

    blind = Reaper(store, bench.service.messenger, away)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        assert blind.run_once() == []
        time.sleep(0.02)
    assert store.get(job.id).state is State.RUNNING
    seeing = Reaper(store, bench.service.messenger, lambda _: None)
    wait_until(lambda: blind.run_once() or seeing.run_once() == [job.id], what="the verdict")
    assert store.get(job.id).attempts[0].reason is Reason.LOST


def test_the_reaper_finds_a_lost_attempt_and_a_lost_message(bench: Bench, wait_until: Wait) -> None:
    store = JobStore(bench.store.redis, lease_seconds=0.2)
    job = store.submit(python(""))
    assert store.claim("default", "silent") is not None
    reaper = Reaper(store, bench.service.messenger, lambda _: None)
    wait_until(lambda: reaper.run_once() == [job.id], what="the verdict")
    after = store.get(job.id)
    assert (after.state, after.attempts[0].reason) == (State.QUEUED, Reason.LOST)
    assert store.redis.llen(store.keys.queue("default")) == 1
    store.redis.delete(store.keys.queue("default"))
    reaper.run_once()
    assert store.redis.llen(store.keys.queue("default")) == 1
    second = Reaper(store, bench.service.messenger, lambda _: None)
    store.redis.delete(store.keys.queue("default"))
    assert second.run_once() == []
    assert store.redis.llen(store.keys.queue("default")) == 0, "only one reaper is at work"
