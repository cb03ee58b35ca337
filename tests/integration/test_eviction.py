"""Evictions, with a real Redis, and once with a real worker."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request, State
from jobs.reaper.evictor import Evictor
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from machine.python import python_module
from tests.integration.one_worker import worker_settings

Wait = Callable[..., Any]
SPEC = JobSpec(name="a", command=["true"])


@pytest.fixture
def registry(store: JobStore) -> WorkerRegistry:
    return WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60)


@pytest.fixture
def evictor(store: JobStore) -> Evictor:
    return Evictor(store, min_seconds=0)


def submit(store: JobStore, priority: int, **changes: Any) -> Job:
    return store.submit(SPEC.model_copy(update={"priority": priority, **changes}))


def runs(
    store: JobStore, registry: WorkerRegistry, worker: str, priority: int, **changes: Any
) -> Job:
    """A job that runs on a worker of its own."""
    registry.renew(worker, pool="default", host="h")
    job = submit(store, priority, **changes)
    claimed = store.claim("default", worker)
    assert claimed is not None
    assert claimed.id == job.id
    return claimed


def evicted(store: JobStore, job: Job) -> None:
    current = store.get(job.id).current
    assert current is not None
    store.finish(job.id, current.model_copy(update={"reason": Reason.EVICTED, "ended_at": 1.0}))


def test_a_waiting_job_evicts_one_of_lower_priority_once(
    store: JobStore, registry: WorkerRegistry, evictor: Evictor
) -> None:
    low, middle = runs(store, registry, "w1", 2), runs(store, registry, "w2", 5)
    high = submit(store, 8)
    assert evictor.run_once(store.now()) == [low.id]
    assert store.get(low.id).request is Request.EVICT
    assert store.get(middle.id).request is None
    assert evictor.run_once(store.now()) == [], "one victim for one job"
    submit(store, 8)
    assert evictor.run_once(store.now()) == [middle.id]
    assert evictor.run_once(store.now()) == []
    assert store.events(low.id)[-1].data == {"request": "evict", "for": high.id}


@pytest.mark.parametrize(
    ("change", "priority"),
    [({"preemptible": False}, 8), ({}, 5), ({}, 2)],
    ids=["not preemptible", "equal", "lower"],
)
def test_who_must_not_be_evicted_is_not(
    store: JobStore,
    registry: WorkerRegistry,
    evictor: Evictor,
    change: dict[str, Any],
    priority: int,
) -> None:
    runs(store, registry, "w1", 5, **change)
    submit(store, priority)
    assert evictor.run_once(store.now()) == []


def test_nobody_is_evicted_before_his_time_or_while_a_worker_is_free(
    store: JobStore, registry: WorkerRegistry
) -> None:
    low = runs(store, registry, "w1", 2)
    submit(store, 8)
    evictor = Evictor(store, min_seconds=120)
    assert evictor.run_once(store.now()) == []
    registry.renew("w2", pool="default", host="h")
    assert evictor.run_once(store.now() + 121) == []
    registry.drain("w2")
    assert evictor.run_once(store.now() + 121) == [low.id], "a drained worker is no free one"


def test_a_worker_that_takes_no_jobs_gives_no_slot(
    store: JobStore, registry: WorkerRegistry, evictor: Evictor
) -> None:
    runs(store, registry, "w1", 2)
    runs(store, registry, "w2", 2)
    registry.drain("w1")
    registry.renew("w2", pool="default", host="h", unhealthy="hot")
    submit(store, 8)
    assert evictor.run_once(store.now()) == []


def test_aging_evicts_nobody(store: JobStore, registry: WorkerRegistry, evictor: Evictor) -> None:
    runs(store, registry, "w1", 5)
    waiting = submit(store, 4)
    store.redis.hset(store.keys.job(waiting.id), "waits_since", store.now() - 1e6)
    assert evictor.run_once(store.now()) == []


def test_a_job_that_has_waited_its_turn_is_evicted_by_what_counts_more_only(
    store: JobStore, registry: WorkerRegistry, evictor: Evictor
) -> None:
    registry.renew("w1", pool="default", host="h")
    aged, other = submit(store, 0), submit(store, 5)
    since = store.now() - 6.5 * store.aging_seconds
    store.redis.hset(store.keys.job(aged.id), "waits_since", since)
    claimed = store.claim("default", "w1")
    assert claimed is not None
    assert claimed.id == aged.id, "it counts 6"
    assert evictor.run_once(store.now()) == [], "an eviction would undo its wait"
    submit(store, 6)
    assert evictor.run_once(store.now()) == []
    high = submit(store, 7)
    assert evictor.run_once(store.now()) == [aged.id]
    assert store.queues.evicted_for(aged.id) == high.id
    assert store.get(other.id).state is State.QUEUED


def test_the_place_of_an_evicted_job_is_kept_for_the_job_it_was_evicted_for(
    store: JobStore, registry: WorkerRegistry, evictor: Evictor
) -> None:
    """Also where one that has waited long is first in turn: else one job would evict many."""
    low = runs(store, registry, "w1", 2)
    aged, high = submit(store, 2), submit(store, 8)
    store.redis.hset(store.keys.job(aged.id), "waits_since", store.now() - 1e6)
    assert evictor.run_once(store.now()) == [low.id]
    evicted(store, low)
    assert store.get(low.id).reason is Reason.EVICTED
    assert store.queues.reserved_for("w1") == high.id
    assert store.queues.next_in_turn("default") == [low.id, aged.id, high.id]
    assert evictor.run_once(store.now()) == []
    claimed = store.claim("default", "w1")
    assert claimed is not None
    assert claimed.id == high.id
    assert store.queues.next_in_turn("default") == [low.id, aged.id]


def test_a_worker_says_for_which_job_it_is_reserved(
    store: JobStore, registry: WorkerRegistry, evictor: Evictor
) -> None:
    def reserved() -> dict[str, str | None]:
        return {worker.name: worker.reserved_for for worker in registry.workers()}

    low = runs(store, registry, "w1", 2)
    runs(store, registry, "w2", 9)
    assert reserved() == {"w1": None, "w2": None}
    high = submit(store, 8)
    evictor.run_once(store.now())
    assert reserved() == {"w1": high.id, "w2": None}, "while the other leaves"
    evicted(store, low)
    assert reserved() == {"w1": high.id, "w2": None}, "until the next claim"
    assert store.claim("default", "w1") is not None
    assert reserved() == {"w1": None, "w2": None}


def test_a_kept_place_is_anybodys_when_the_job_it_is_kept_for_is_gone(
    store: JobStore, registry: WorkerRegistry, evictor: Evictor
) -> None:
    low = runs(store, registry, "w1", 2)
    high = submit(store, 8)
    evictor.run_once(store.now())
    evicted(store, low)
    store.request(high.id, Request.CANCEL)
    claimed = store.claim("default", "w1")
    assert claimed is not None
    assert (claimed.id, claimed.attempt) == (low.id, 2)


def test_an_eviction_decided_too_late_is_not_carried_out(
    store: JobStore, registry: WorkerRegistry
) -> None:
    low = runs(store, registry, "w1", 2)
    high = submit(store, 8)
    assert not store.evict(low.id, 2, high.id)
    store.request(high.id, Request.CANCEL)
    assert not store.evict(low.id, 1, high.id)
    other = submit(store, 8)
    store.request(low.id, Request.PREEMPT)
    assert not store.evict(low.id, 1, other.id), "it was asked to leave by a person"
    assert store.get(low.id).request is Request.PREEMPT


# -- a real worker ----------------------------------------------------------------------------

TRAIN = """
import json, os, sys, time
from pathlib import Path
from monitoring import preemption, step_counter
state = Path(os.environ["SPECTRAIN_RUN_DIR"]) / "state.json"
start = json.loads(state.read_text())["step"] + 1 if state.exists() else 0
print("starts at", start, flush=True)
for step in range(start, 200):
    step_counter.beat(step)
    time.sleep(0.02)
    if preemption.stop_requested():
        state.write_text(json.dumps({"step": step}))
        sys.exit(143)
"""


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **{k: v for k, v in os.environ.items() if k != "REDIS_URL"},
        **worker_settings(settings),
        "SPECTRAIN_EVICTION_MIN_SECONDS": "0.5",
        "SPECTRAIN_WARM_START": "0",
    }
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(python_module("worker"), env=environment, stdout=log, stderr=log)
    yield process
    process.kill()
    process.wait()


def test_a_low_job_saves_makes_room_and_goes_on_from_there_afterwards(
    settings: Settings,
    store: JobStore,
    registry: WorkerRegistry,
    worker: subprocess.Popen[bytes],
    wait_until: Wait,
) -> None:
    command = ["python", "-c", TRAIN]
    low = store.submit(JobSpec(name="low", command=command, priority=1))
    wait_until(lambda: reached(store, low, 20), what="some steps")
    high = store.submit(JobSpec(name="high", command=["true"], priority=7))
    wait_until(lambda: store.get(high.id).state is State.SUCCEEDED, what="the high job")
    wait_until(lambda: store.get(low.id).state is State.SUCCEEDED, what="the low job")
    first, second = store.get(low.id).attempts
    assert (first.reason, second.reason) == (Reason.EVICTED, Reason.COMPLETED)
    assert first.message == "a job of higher priority needed its slot"
    high_attempt = store.get(high.id).attempts[0]
    assert (first.ended_at or 0) <= high_attempt.started_at < second.started_at
    assert second.first_step == (first.last_step or 0) + 1, "it went on where it had saved"
    kept = Path(settings.storage_url.removeprefix("file://")) / low.id / "state.json"
    assert json.loads(kept.read_text()) == {"step": first.last_step}


def reached(store: JobStore, job: Job, step: int) -> bool:
    progress = store.get(job.id).progress
    return progress is not None and (progress.step or 0) >= step
