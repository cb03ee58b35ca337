"""The register of workers, with a real Redis and real worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.redis_server import RedisConfig, find_redis_server
from jobs.messages import Messenger
from jobs.record import Attempt, Job
from jobs.register import Register
from jobs.settings import Settings, connect
from jobs.spec import JobSpec
from jobs.states import Reason, State
from jobs.store import JobStore
from jobs.workers import WorkerState

Wait = Callable[..., Any]
SPEC = JobSpec(name="a", command=["true"])
NAPPING = JobSpec(name="nap", command=["sleep", "600"])


@pytest.fixture
def register(store: JobStore) -> Register:
    return Register(store.redis, prefix=store.prefix, lease_seconds=store.lease_seconds)


def attend(register: Register, name: str, pool: str = "default", **more: Any) -> WorkerState:
    return register.attend(name, pool=pool, host="h", **more)


def end(store: JobStore, job: Job, reason: Reason = Reason.COMPLETED) -> None:
    at = job.attempts[-1].started_at
    store.finish(
        job.id,
        Attempt(number=job.attempt, worker="w1", started_at=at, ended_at=at, reason=reason),
    )


# -- the register -----------------------------------------------------------------------------


def test_a_worker_is_idle_then_busy_with_its_job_then_idle_again(
    store: JobStore, register: Register
) -> None:
    assert attend(register, "w1", gpus=["NVIDIA L4"]) is WorkerState.IDLE
    first = register.get("w1")
    assert first is not None
    assert (first.pool, first.host, first.gpus, first.job) == ("default", "h", ["NVIDIA L4"], None)
    store.submit(SPEC)
    job = store.claim("default", "w1")
    assert job is not None
    busy = register.get("w1")
    assert busy is not None
    assert (busy.state, busy.job) == (WorkerState.BUSY, job.id)
    assert busy.since > first.since
    assert attend(register, "w1") is WorkerState.BUSY
    renewed = register.get("w1")
    assert renewed is not None
    assert renewed.since == busy.since, "`since` is when it began, not when it was last heard"
    end(store, job)
    idle = register.get("w1")
    assert idle is not None
    assert (idle.state, idle.job) == (WorkerState.IDLE, None)
    assert idle.started_at == first.started_at


def test_an_entry_that_is_not_renewed_expires_and_comes_back_as_it_was(
    store: JobStore, wait_until: Wait
) -> None:
    register = Register(store.redis, prefix=store.prefix, lease_seconds=0.5)
    attend(register, "w1")
    first = register.get("w1")
    assert first is not None
    wait_until(lambda: not register.workers(), what="the end of the entry")
    lasting = Register(store.redis, prefix=store.prefix, lease_seconds=60)
    attend(lasting, "w1")
    assert lasting.get("w1") == first


def test_what_never_came_back_is_forgotten(store: JobStore, register: Register) -> None:
    for number in range(25):
        attend(register, f"old{number}")
        store.redis.zadd("spectrain:workers", {f"old{number}": store.now() - 4000})
    for _ in range(3):
        attend(register, "w1")
    assert store.redis.keys("spectrain:worker:*") == ["spectrain:worker:w1"]
    assert store.redis.zrange("spectrain:workers", 0, -1) == ["w1"]


def test_an_unhealthy_or_leaving_worker_says_why(register: Register) -> None:
    assert attend(register, "w1", unhealthy="GPU 0 is lost") is WorkerState.UNHEALTHY
    assert attend(register, "w2", leaving=True) is WorkerState.DRAINING
    assert [worker.reason for worker in register.workers()] == [
        "GPU 0 is lost", "it was told to stop",
    ]  # fmt: skip
    assert attend(register, "w1") is WorkerState.IDLE


def test_pools_count_their_workers_and_jobs(store: JobStore, register: Register) -> None:
    attend(register, "w1")
    attend(register, "w2")
    attend(register, "w3", pool="empty", unhealthy="hot")
    for _ in range(4):
        store.submit(SPEC)
    assert store.claim("default", "w1") is not None
    failing = store.claim("default", "w2")
    assert failing is not None
    end(store, failing, Reason.ERROR)
    default, empty = register.pools()
    assert (default.queued, default.delayed, default.running, default.wanted) == (2, 1, 1, 3)
    assert default.workers == {"idle": 1, "busy": 1, "draining": 0, "unhealthy": 0}
    assert (empty.name, empty.wanted, empty.workers["unhealthy"]) == ("empty", 0, 1)
    store.redis.zadd("spectrain:jobs:pool:default:delayed", {failing.id: 1})
    (default, _) = register.pools()
    assert (default.queued, default.delayed, default.wanted) == (3, 0, 4), "its back-off is over"


# -- real workers -----------------------------------------------------------------------------


class Workers:
    """Worker processes of a service, each with a log, ended with the test."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self._directory = directory
        self._environment = {
            **{k: v for k, v in os.environ.items() if k not in {"REDIS_URL"}},
            "SPECTRAIN_REDIS_URL": settings.redis_url,
            "SPECTRAIN_STORAGE_URL": settings.storage_url,
            "SPECTRAIN_SCRATCH_DIR": str(settings.scratch_dir),
            "SPECTRAIN_LEASE_SECONDS": str(settings.lease_seconds),
            "SPECTRAIN_DEVICE": "cpu",
        }
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, **settings: str) -> subprocess.Popen[bytes]:
        with self.log(len(self.started)).open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker"],
                env={**self._environment, **settings},
                stdout=file,
                stderr=file,
            )
        self.started.append(process)
        return process

    def log(self, number: int = 0) -> Path:
        return self._directory / f"worker-{number}.log"

    def stop(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(settings, tmp_path)
    yield workers
    workers.stop()


@pytest.fixture
def messenger(settings: Settings, store: JobStore) -> Iterator[Messenger]:
    messenger = Messenger(settings, store)
    yield messenger
    messenger.close()


def test_a_worker_that_ends_leaves_the_register_and_one_that_is_killed_expires(
    workers: Workers, register: Register, wait_until: Wait
) -> None:
    leaving, killed = workers.start(), workers.start()
    wait_until(lambda: len(register.workers()) == 2, what="both workers")
    killed.kill()
    leaving.terminate()
    assert leaving.wait(30) == 0
    wait_until(lambda: not register.workers(), what="an empty register", seconds=20)
    assert len(register._redis.keys("spectrain:worker:*")) == 1, "only the killed one's is kept"


def said(workers: Workers, times: int) -> bool:
    return workers.log().read_text().count("cannot reach the register") == times


@pytest.fixture
def own_redis(tmp_path: Path, wait_until: Wait) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The URL of a Redis that a test may take away, and what starts it again."""
    config = RedisConfig(tmp_path / "own-redis")
    running: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        running.append(
            subprocess.Popen([find_redis_server(), str(config.path)], stdout=subprocess.DEVNULL)
        )
        wait_until(config.answers, what="Redis")
        return running[-1]

    yield config.url, start
    for process in running:
        process.kill()
        process.wait()


def test_redis_away_twice_costs_no_worker_fills_no_log_and_leaves_the_register_right(
    settings: Settings,
    own_redis: tuple[str, Callable[[], Any]],
    tmp_path: Path,
    wait_until: Wait,
) -> None:
    url, start = own_redis
    redis = start()
    settings = settings.model_copy(update={"redis_url": url, "lease_seconds": 1})
    workers = Workers(settings, tmp_path)
    with connect(settings) as client:
        store = JobStore(client, lease_seconds=1)
        register = Register(client, prefix="spectrain:", lease_seconds=1)
        messenger = Messenger(settings, store)
        try:
            worker = workers.start()
            wait_until(register.workers, what="the worker")
            job = store.submit(NAPPING)
            messenger.flush(store.now())
            busy = wait_until(lambda: [w for w in register.workers() if w.job], what="the job")
            for outage in (1, 2):
                redis.kill()
                redis.wait()
                wait_until(lambda n=outage: said(workers, n), what="the worker's word")
                redis = start()
                store.redis.delete("spectrain:workers")
                wait_until(lambda: register.workers() == busy, what="the register as it was")
            assert worker.poll() is None
            assert store.get(job.id).state is State.RUNNING
            log = workers.log().read_text()
            assert "Traceback" not in log
            assert len(log.splitlines()) < 40, log
        finally:
            workers.stop()
            messenger.close()
