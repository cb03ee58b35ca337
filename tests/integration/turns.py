"""Runs a model of the queue beside the queue itself, on a real Redis."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from jobs.store.jobs import JobStore


def aging(store: JobStore, seconds: float) -> JobStore:
    """The same jobs, where a priority counts one more after so many seconds."""
    return JobStore(store.redis, lease_seconds=store.lease_seconds, aging_seconds=seconds)


def pass_time(store: JobStore, job_ids: Iterable[str], seconds: float) -> None:
    """Has all queued jobs of the default pool wait since so much earlier, as if time had passed."""
    for job_id in job_ids:
        _wait_longer(store, job_id, seconds)
    due = store.keys.pool("default", "ranked:due")
    for member in store.redis.zrange(due, 0, -1):
        store.redis.zincrby(due, -seconds, member)


def wait_longer(store: JobStore, job_id: str, seconds: float) -> None:
    """Has one queued job wait since so much earlier, which claims would not look for."""
    _wait_longer(store, job_id, seconds)
    store.redis.delete(store.keys.pool("default", "ranked:aging"))


def _wait_longer(store: JobStore, job_id: str, seconds: float) -> None:
    key = store.keys.job(job_id)
    since = float(store.redis.hget(key, "waits_since")) - seconds
    store.redis.hset(key, "waits_since", f"{since:.6f}")


def run_turns(machine: type[RuleBasedStateMachine], store: JobStore, sequences: int) -> None:
    """Runs so many sequences of the rules of a machine, on the jobs of `store`."""
    run_state_machine_as_test(
        type("TurnsHere", (machine,), {"store": store}),
        settings=settings(
            max_examples=sequences,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
