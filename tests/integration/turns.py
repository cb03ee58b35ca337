"""Runs a model of the queue beside the queue itself, on a real Redis."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from jobs.store.jobs import JobStore


def aging(store: JobStore, seconds: float) -> JobStore:
    """The same jobs, where a priority counts one more after so many seconds."""
    return JobStore(store.redis, lease_seconds=store.lease_seconds, aging_seconds=seconds)


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
