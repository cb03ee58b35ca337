"""The register of workers, with a real Redis and real worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from redis import Redis

from api.redis_server import RedisConfig, find_redis_server
from jobs.errors import ClaimRefusedError, WorkerNotFoundError
from jobs.gpu_health import GpuReading
from jobs.messages import Messenger
from jobs.record import Attempt, Job
from jobs.register import Register
from jobs.settings import Settings, connect
from jobs.spec import JobSpec
from jobs.states import Reason, State
from jobs.store import JobStore
from jobs.workers import WorkerState
from worker.health import GpuWatch
from worker.presence import Identity, Presence

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
    assert attend(register, "w2", leaving="it was told to stop") is WorkerState.DRAINING
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

    def logs(self) -> str:
        return "".join(self.log(number).read_text() for number in range(len(self.started)))

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


def test_a_drained_worker_ends_its_job_claims_no_other_and_takes_jobs_again_when_undrained(
    store: JobStore, register: Register
) -> None:
    attend(register, "w1")
    first, second = store.submit(SPEC), store.submit(SPEC)
    job = store.claim("default", "w1")
    assert job is not None
    drained = register.drain("w1")
    assert (drained.state, drained.job) == (WorkerState.DRAINING, first.id)
    again = store.claim("default", "w1")
    assert again is not None, "the answer to a claim may have been lost on the way"
    assert again.id == first.id
    end(store, job)
    with pytest.raises(ClaimRefusedError, match="draining"):
        store.claim("default", "w1")
    assert store.get(second.id).attempt == 0
    assert register.undrain("w1").state is WorkerState.IDLE
    claimed = store.claim("default", "w1")
    assert claimed is not None
    assert claimed.id == second.id


def test_an_unhealthy_worker_is_refused_and_one_that_the_register_does_not_know_is_not(
    store: JobStore, register: Register
) -> None:
    attend(register, "w1", unhealthy="GPU 0 is lost")
    job = store.submit(SPEC)
    with pytest.raises(ClaimRefusedError, match="unhealthy"):
        store.claim("default", "w1")
    claimed = store.claim("default", "w2")
    assert claimed is not None
    assert claimed.id == job.id


def test_a_worker_that_is_not_there_cannot_be_drained(store: JobStore, register: Register) -> None:
    with pytest.raises(WorkerNotFoundError, match="There is no worker 'w1'"):
        register.drain("w1")
    attend(register, "w1")
    store.redis.zadd("spectrain:workers", {"w1": store.now() - 1})
    with pytest.raises(WorkerNotFoundError):
        register.drain("w1")


def test_a_worker_stays_drained_when_redis_has_forgotten_it(
    store: JobStore, register: Register
) -> None:
    presence = Presence(
        register, Identity("w1", "default", "h"), seconds=60,
        health=lambda: "", leaving=lambda: "",
    )  # fmt: skip
    presence.say()
    register.drain("w1")
    presence.say()
    assert not presence.may_take_jobs
    store.redis.flushall()
    presence.say()
    assert not presence.may_take_jobs
    register.undrain("w1")
    presence.say()
    assert presence.may_take_jobs
    store.redis.flushall()
    presence.say()
    assert presence.may_take_jobs


@pytest.mark.parametrize(("health", "leaving"), [("hot", ""), ("", "spot notice")])
def test_a_worker_that_starts_unfit_or_under_a_notice_takes_no_job_before_it_has_said_so(
    health: str, leaving: str
) -> None:
    with Redis("127.0.0.1", 1, retry=None, decode_responses=True) as nobody:
        presence = Presence(
            Register(nobody, prefix="spectrain:", lease_seconds=60),
            Identity("w1", "default", "h"), seconds=60,
            health=lambda: health, leaving=lambda: leaving,
        )  # fmt: skip
        assert presence.may_take_jobs
        presence.start()
        assert not presence.may_take_jobs
        presence.stop()


def test_a_worker_whose_gpu_fails_says_so_and_takes_no_job_until_it_is_well(
    store: JobStore, register: Register
) -> None:
    readings = [GpuReading("0")]
    reader = SimpleNamespace(read=lambda: list(readings))
    watch = GpuWatch(reader)
    presence = Presence(
        register, Identity("w1", "default", "h", ("NVIDIA L4",)), seconds=60,
        health=watch.verdict, leaving=lambda: "",
    )  # fmt: skip
    watch.on_change = presence.say
    presence.say()
    assert presence.may_take_jobs
    readings[0] = GpuReading("0", remap_failed=True)
    watch.look()
    (worker,) = register.workers()
    assert (worker.state, worker.reason) == (
        WorkerState.UNHEALTHY, "GPU 0 has bad memory that could not be remapped",
    )  # fmt: skip
    assert not presence.may_take_jobs
    store.submit(SPEC)
    with pytest.raises(ClaimRefusedError, match="unhealthy"):
        store.claim("default", "w1")
    readings[0] = GpuReading("0")
    watch.look()
    assert presence.may_take_jobs
    assert store.claim("default", "w1") is not None


def test_a_worker_without_a_scratch_disk_fails_no_job_and_takes_them_when_there_is_one(
    workers: Workers,
    register: Register,
    store: JobStore,
    messenger: Messenger,
    settings: Settings,
    wait_until: Wait,
) -> None:
    workers.start()
    wait_until(register.workers, what="the worker")
    wait_until(lambda: not any(settings.scratch_dir.rglob("*")), what="a tidy directory")
    settings.scratch_dir.rmdir()
    settings.scratch_dir.write_text("no directory")
    jobs = [store.submit(SPEC) for _ in range(3)]
    messenger.flush(store.now())
    worker = wait_until(
        lambda: next((w for w in register.workers() if w.state is WorkerState.UNHEALTHY), None),
        what="the worker's word",
    )
    assert "its scratch disk" in worker.reason
    assert [store.get(job.id).attempt for job in jobs] == [0, 0, 0]
    settings.scratch_dir.unlink()
    for job in jobs:
        wait_until(lambda: store.get(job.id).state is State.SUCCEEDED, what="its end")  # noqa: B023
    assert [store.get(job.id).attempt for job in jobs] == [1, 1, 1]


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


def test_a_drained_worker_leaves_the_jobs_to_others_and_goes_on_when_undrained(
    workers: Workers,
    register: Register,
    store: JobStore,
    messenger: Messenger,
    wait_until: Wait,
) -> None:
    workers.start()
    (first,) = wait_until(register.workers, what="the worker")
    running = store.submit(JobSpec(name="b", command=["sleep", "2"]))
    messenger.flush(store.now())
    wait_until(lambda: store.get(running.id).state is State.RUNNING, what="a start")
    register.drain(first.name)
    waiting = [store.submit(SPEC) for _ in range(3)]
    messenger.flush(store.now())
    queue = "spectrain:queue:default"
    wait_until(lambda: store.get(running.id).state is State.SUCCEEDED, what="the end of its job")
    # It takes one message, hands it on, and leaves them all in the queue for others. The reaper may
    # have sent some at the same time as the test: twice does no harm.
    wait_until(lambda: "is drained" in workers.log().read_text(), what="its word")
    wait_until(lambda: store.redis.llen(queue) >= 3, what="the messages")
    assert {store.get(job.id).state for job in waiting} == {State.QUEUED}
    workers.start()
    wait_until(lambda: store.get(waiting[2].id).state is State.SUCCEEDED, what="another worker")
    names = {store.get(job.id).attempts[0].worker for job in waiting}
    assert first.name not in names
    workers.started[1].terminate()
    assert workers.started[1].wait(30) == 0
    last = store.submit(SPEC)
    messenger.flush(store.now())
    register.undrain(first.name)
    wait_until(lambda: store.get(last.id).state is State.SUCCEEDED, what="the undrained worker")
    register.drain(first.name)
    workers.started[0].terminate()
    assert workers.started[0].wait(30) == 0


def test_sigterm_once_waits_for_the_child_to_save_and_twice_kills_it_at_once(
    workers: Workers,
    register: Register,
    store: JobStore,
    messenger: Messenger,
    wait_until: Wait,
    tmp_path: Path,
) -> None:
    worker = workers.start(SPECTRAIN_GRACE_SECONDS="600")
    wait_until(register.workers, what="the worker")
    asked = tmp_path / "asked"
    script = f"trap 'touch {asked}' TERM; while true; do sleep 0.05; done"
    job = store.submit(JobSpec(name="stubborn", command=["sh", "-c", script]))
    messenger.flush(store.now())
    wait_until(lambda: stubborn_child(script), what="the child")
    worker.send_signal(signal.SIGTERM)
    wait_until(asked.exists, what="the first SIGTERM at the child")
    leaving = wait_until(
        lambda: [w for w in register.workers() if w.state is WorkerState.DRAINING],
        what="its word",
    )
    assert (leaving[0].job, leaving[0].reason) == (job.id, "it was told to stop")
    assert worker.poll() is None
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert not stubborn_child(script)
    ended = store.get(job.id)
    assert (ended.state, ended.reason) == (State.QUEUED, Reason.PREEMPTED)
    assert ended.attempts[0].exit_code == 137
    assert register.workers() == []


def stubborn_child(script: str) -> bool:
    """Whether the child runs, its trap set: its shell sleeps for the first time."""
    for process in psutil.process_iter(["cmdline"]):
        if process.info["cmdline"] == ["sh", "-c", script] and process.children():
            return True
    return False


def said(workers: Workers, times: int) -> bool:
    """Whether both workers have noticed so many outages, and Celery in the idle one the first."""
    log = workers.logs()
    noticed = log.count("cannot reach the register") == 2 * times
    return noticed and "Connection to broker lost" in log


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
            running = [workers.start(), workers.start()]
            wait_until(lambda: len(register.workers()) == 2, what="the workers")
            job = store.submit(NAPPING)
            messenger.flush(store.now())
            wait_until(lambda: store.get(job.id).worker, what="the job")
            before = register.workers()
            assert {worker.state for worker in before} == {WorkerState.BUSY, WorkerState.IDLE}
            for outage in (1, 2):
                redis.kill()
                redis.wait()
                wait_until(lambda n=outage: said(workers, n), what="the workers' word")
                redis = start()
                store.redis.delete("spectrain:workers")
                wait_until(lambda: register.workers() == before, what="the register as it was")
            assert [worker.poll() for worker in running] == [None, None]
            assert store.get(job.id).state is State.RUNNING
            log = workers.logs()
            assert "Traceback" not in log
            assert "Cannot connect" not in log, "Celery tells each of its tries"
        finally:
            workers.stop()
            messenger.close()
