"""The registry of workers, with a real Redis."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis

from jobs.errors import ClaimRefusedError, WorkerNotFoundError
from jobs.model.record import Attempt, Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason
from jobs.model.workers import Gpu, WorkerState
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from worker.cluster.registration import Identity, Registration
from worker.gpu.health import GpuReading
from worker.gpu.watch import GpuWatch

Wait = Callable[..., Any]
SPEC = JobSpec(name="a", command=["true"])
NAPPING = JobSpec(name="nap", command=["sleep", "600"])


def renew(registry: WorkerRegistry, name: str, pool: str = "default", **more: Any) -> WorkerState:
    return registry.renew(name, pool=pool, host="h", **more)


def end(store: JobStore, job: Job, reason: Reason = Reason.COMPLETED) -> None:
    at = job.attempts[-1].started_at
    store.finish(
        job.id,
        Attempt(number=job.attempt, worker="w1", started_at=at, ended_at=at, reason=reason),
    )


# -- the registry -----------------------------------------------------------------------------


def test_a_worker_is_idle_then_busy_with_its_job_then_idle_again(
    store: JobStore, registry: WorkerRegistry
) -> None:
    assert renew(registry, "w1", gpus=["NVIDIA L4"]) is WorkerState.IDLE
    first = registry.get("w1")
    assert first is not None
    assert (first.pool, first.host, first.gpus, first.job) == ("default", "h", ["NVIDIA L4"], None)
    store.submit(SPEC)
    job = store.claim("default", "w1")
    assert job is not None
    busy = registry.get("w1")
    assert busy is not None
    assert (busy.state, busy.job) == (WorkerState.BUSY, job.id)
    assert busy.since > first.since
    assert renew(registry, "w1") is WorkerState.BUSY
    renewed = registry.get("w1")
    assert renewed is not None
    assert renewed.since == busy.since, "`since` is when it began, not when it was last heard"
    end(store, job)
    idle = registry.get("w1")
    assert idle is not None
    assert (idle.state, idle.job) == (WorkerState.IDLE, None)
    assert idle.started_at == first.started_at


def test_what_the_gpus_of_a_worker_do_is_told_and_kept_current(registry: WorkerRegistry) -> None:
    hot = Gpu(name="NVIDIA L4", used_bytes=1 << 30, total_bytes=24 << 30, busy_percent=99.0,
              celsius=81.0, watts=70.5, fault="")  # fmt: skip
    renew(registry, "w1", gpus=["NVIDIA L4"], gpu_states=[hot])
    found = registry.get("w1")
    assert found is not None
    assert found.gpu_states == [hot]
    cool = hot.model_copy(update={"celsius": 40.0, "watts": None, "fault": "GPU 0 is lost"})
    renew(registry, "w1", gpus=["NVIDIA L4"], gpu_states=[cool])
    assert [worker.gpu_states for worker in registry.workers()] == [[cool]]


def test_a_worker_of_an_earlier_version_has_no_readings(
    store: JobStore, registry: WorkerRegistry
) -> None:
    renew(registry, "w1", gpus=["NVIDIA L4"])
    store.redis.hdel(store.keys.worker("w1"), "gpu_states")
    found = registry.get("w1")
    assert found is not None
    assert (found.gpus, found.gpu_states) == (["NVIDIA L4"], [])


def test_an_entry_that_is_not_renewed_expires_and_comes_back_as_it_was(
    store: JobStore, wait_until: Wait
) -> None:
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=0.5)
    renew(registry, "w1")
    first = registry.get("w1")
    assert first is not None
    wait_until(lambda: not registry.workers(), what="the end of the entry")
    lasting = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60)
    renew(lasting, "w1")
    assert lasting.get("w1") == first


def test_what_never_came_back_is_forgotten(store: JobStore, registry: WorkerRegistry) -> None:
    for number in range(25):
        renew(registry, f"old{number}")
        store.redis.zadd(store.keys.workers, {f"old{number}": store.now() - 4000})
    for _ in range(3):
        renew(registry, "w1")
    assert store.redis.keys(store.keys.worker("*")) == [store.keys.worker("w1")]
    assert store.redis.zrange(store.keys.workers, 0, -1) == ["w1"]


def test_an_unhealthy_or_leaving_worker_says_why(registry: WorkerRegistry) -> None:
    assert renew(registry, "w1", unhealthy="GPU 0 is lost") is WorkerState.UNHEALTHY
    assert renew(registry, "w2", leaving="it was told to stop") is WorkerState.DRAINING
    assert [worker.reason for worker in registry.workers()] == [
        "GPU 0 is lost", "it was told to stop",
    ]  # fmt: skip
    assert renew(registry, "w1") is WorkerState.IDLE


def test_pools_count_their_workers_and_jobs(store: JobStore, registry: WorkerRegistry) -> None:
    renew(registry, "w1")
    renew(registry, "w2")
    renew(registry, "w3", pool="empty", unhealthy="hot")
    for _ in range(4):
        store.submit(SPEC)
    assert store.claim("default", "w1") is not None
    failing = store.claim("default", "w2")
    assert failing is not None
    end(store, failing, Reason.ERROR)
    default, empty = registry.pools()
    assert (default.queued, default.delayed, default.running, default.wanted) == (2, 1, 1, 3)
    assert default.workers == {"idle": 1, "busy": 1, "draining": 0, "unhealthy": 0}
    assert (empty.name, empty.wanted, empty.workers["unhealthy"]) == ("empty", 0, 1)
    store.redis.zadd(store.keys.pool("default", "delayed"), {failing.id: 1})
    (default, _) = registry.pools()
    assert (default.queued, default.delayed, default.wanted) == (3, 0, 4), "its back-off is over"


def test_a_drained_worker_ends_its_job_claims_no_other_and_takes_jobs_again_when_undrained(
    store: JobStore, registry: WorkerRegistry
) -> None:
    renew(registry, "w1")
    first, second = store.submit(SPEC), store.submit(SPEC)
    job = store.claim("default", "w1")
    assert job is not None
    drained = registry.drain("w1")
    assert (drained.state, drained.job) == (WorkerState.DRAINING, first.id)
    again = store.claim("default", "w1")
    assert again is not None, "the answer to a claim may have been lost on the way"
    assert again.id == first.id
    end(store, job)
    with pytest.raises(ClaimRefusedError, match="draining"):
        store.claim("default", "w1")
    assert store.get(second.id).attempt == 0
    assert registry.undrain("w1").state is WorkerState.IDLE
    claimed = store.claim("default", "w1")
    assert claimed is not None
    assert claimed.id == second.id


def test_an_unhealthy_worker_is_refused_and_one_that_the_register_does_not_know_is_not(
    store: JobStore, registry: WorkerRegistry
) -> None:
    renew(registry, "w1", unhealthy="GPU 0 is lost")
    job = store.submit(SPEC)
    with pytest.raises(ClaimRefusedError, match="unhealthy"):
        store.claim("default", "w1")
    claimed = store.claim("default", "w2")
    assert claimed is not None
    assert claimed.id == job.id


def test_a_worker_that_is_not_there_cannot_be_drained(
    store: JobStore, registry: WorkerRegistry
) -> None:
    with pytest.raises(WorkerNotFoundError, match="There is no worker 'w1'"):
        registry.drain("w1")
    renew(registry, "w1")
    store.redis.zadd(store.keys.workers, {"w1": store.now() - 1})
    with pytest.raises(WorkerNotFoundError):
        registry.drain("w1")


def test_a_worker_stays_drained_when_redis_has_forgotten_it(
    store: JobStore, registry: WorkerRegistry
) -> None:
    registration = Registration(
        registry, Identity("w1", "default", "h"), seconds=60,
        health=lambda: "", leaving=lambda: "",
    )  # fmt: skip
    registration.renew()
    registry.drain("w1")
    registration.renew()
    assert not registration.may_take_jobs
    store.redis.flushall()
    registration.renew()
    assert not registration.may_take_jobs
    registry.undrain("w1")
    registration.renew()
    assert registration.may_take_jobs
    store.redis.flushall()
    registration.renew()
    assert registration.may_take_jobs


@pytest.mark.parametrize(("health", "leaving"), [("hot", ""), ("", "spot notice")])
def test_a_worker_that_starts_unfit_or_under_a_notice_takes_no_job_before_it_has_said_so(
    health: str, leaving: str
) -> None:
    with Redis("127.0.0.1", 1, retry=None, decode_responses=True) as nobody:
        registration = Registration(
            WorkerRegistry(nobody, prefix="spectrain:", lease_seconds=60),
            Identity("w1", "default", "h"), seconds=60,
            health=lambda: health, leaving=lambda: leaving,
        )  # fmt: skip
        assert registration.may_take_jobs
        registration.start()
        assert not registration.may_take_jobs
        registration.stop()


def test_a_worker_whose_gpu_fails_says_so_and_takes_no_job_until_it_is_well(
    store: JobStore, registry: WorkerRegistry
) -> None:
    readings = [GpuReading("0")]
    reader = SimpleNamespace(read=lambda: list(readings))
    watch = GpuWatch(reader)
    registration = Registration(
        registry, Identity("w1", "default", "h", ("NVIDIA L4",)), seconds=60,
        health=watch.verdict, leaving=lambda: "",
    )  # fmt: skip
    watch.on_change = registration.renew
    registration.renew()
    assert registration.may_take_jobs
    readings[0] = GpuReading("0", remap_failed=True)
    watch.check()
    (worker,) = registry.workers()
    assert (worker.state, worker.reason) == (
        WorkerState.UNHEALTHY, "GPU 0 has bad memory that could not be remapped",
    )  # fmt: skip
    assert not registration.may_take_jobs
    store.submit(SPEC)
    with pytest.raises(ClaimRefusedError, match="unhealthy"):
        store.claim("default", "w1")
    readings[0] = GpuReading("0")
    watch.check()
    assert registration.may_take_jobs
    assert store.claim("default", "w1") is not None


def test_the_lease_of_its_job_keeps_a_workers_entry(
    store: JobStore, registry: WorkerRegistry
) -> None:
    renew(registry, "w1")
    store.submit(SPEC)
    job = store.claim("default", "w1")
    assert job is not None
    store.redis.zadd(store.keys.workers, {"w1": store.now() + 0.1})
    store.renew(job.id, job.attempt)
    assert store.redis.zscore(store.keys.workers, "w1") > store.now() + 1
    store.redis.zrem(store.keys.workers, "w1")
    store.renew(job.id, job.attempt)
    assert store.redis.zscore(store.keys.workers, "w1") is None, "half an entry is none"


def test_a_worker_whose_lease_keeps_its_entry_speaks_only_when_there_is_something_to_say(
    store: JobStore, registry: WorkerRegistry
) -> None:
    renewed, health = [-math.inf], [""]
    registration = Registration(
        registry, Identity("w1", "default", "h"), seconds=60,
        health=lambda: health[0], leaving=lambda: "", renewed_at=lambda: renewed[0],
    )  # fmt: skip

    def speaks(*, force: bool = False) -> bool:
        store.redis.zadd(store.keys.workers, {"w1": 1})
        registration.renew(force=force)
        return bool(store.redis.zscore(store.keys.workers, "w1") > 1)

    assert speaks()
    assert speaks(), "nobody renews a lease"
    renewed[0] = time.monotonic()
    assert not speaks()
    assert speaks(force=True)
    health[0] = "GPU 0 is lost"
    assert speaks()
    assert not speaks()
    renewed[0] -= 100
    assert speaks(), "the lease is not renewed any more"
