"""Whose turn it is: priority, first in first out, and aging, against a model in plain Python."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from jobs.model.change import JobChange
from jobs.model.record import Job
from jobs.model.spec import JobSpec, Retry
from jobs.model.states import Reason
from jobs.store.jobs import JobStore
from tests.integration.turns import aging, pass_time, run_turns, wait_longer

AGING = 1000.0
SPEC = JobSpec(name="a", command=["true"], retry=Retry(backoff_seconds=0))


@dataclass
class Waiting:
    """A queued job as the rule sees it; `waited` in seconds."""

    id: str
    priority: int
    sequence: int
    waited: float = 0.0


def turn(job: Waiting) -> tuple[int, int]:
    """The rule: the lowest goes first."""
    return -min(9, job.priority + int(job.waited // AGING)), job.sequence


class Turns(RuleBasedStateMachine):
    """Jobs come, run, are preempted, and time passes: by moving back when each began to wait."""

    store: JobStore  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.store.redis.flushall()
        self.queue: list[Waiting] = []
        self.running: list[tuple[Job, Waiting]] = []
        self.claims = 0

    @rule(priority=st.sampled_from([0, 4, 5, 5, 6, 9]))
    def submit(self, priority: int) -> None:
        job = self.store.submit(SPEC.model_copy(update={"priority": priority}))
        self.queue.append(Waiting(job.id, priority, job.sequence))

    @rule(seconds=st.sampled_from([10, 370, 610, 1130, 3000, 20000]))
    def pass_time(self, seconds: int) -> None:
        pass_time(self.store, [job.id for job in self.queue], seconds)
        for job in self.queue:
            job.waited += seconds

    @rule()
    def claim(self) -> None:
        self.claims += 1
        job = self.store.claim("default", f"w{self.claims}")
        if not self.queue:
            assert job is None
            return
        first = min(self.queue, key=turn)
        assert job is not None
        assert job.id == first.id
        self.queue.remove(first)
        self.running.append((job, first))

    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        """It goes to the head of its priority, and has waited as long as the first one there."""
        if not self.running:
            return
        job, entry = data.draw(st.sampled_from(self.running))
        self.running.remove((job, entry))
        assert job.current is not None
        ended = job.current.model_copy(update={"reason": Reason.PREEMPTED, "ended_at": 1.0})
        self.store.finish(job.id, ended)
        line = [other for other in self.queue if other.priority == entry.priority]
        before = [o.waited for o in line if o.sequence < entry.sequence]
        behind = [o.waited for o in line if o.sequence > entry.sequence]
        entry.waited = min([max([0.0, *behind]), *before])
        self.queue.append(entry)

    @invariant()
    def the_queue_is_told_as_it_would_be_claimed(self) -> None:
        expected = [job.id for job in sorted(self.queue, key=turn)]
        assert self.store.queues.next_in_turn("default") == expected
        assert self.store.queues.next_in_turn("default", 2) == expected[:2]
        positions = [self.store.queues.position(self.store.get(job_id)) for job_id in expected]
        assert positions == list(range(len(expected)))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("sequences", [30, pytest.param(200, marks=pytest.mark.thorough)])
def test_claims_listing_and_positions_follow_the_rule_whatever_happens(
    store: JobStore, sequences: int
) -> None:
    run_turns(Turns, aging(store, AGING), sequences)


def submit(store: JobStore, priority: int) -> Job:
    return store.submit(SPEC.model_copy(update={"priority": priority}))


def test_the_lowest_is_not_starved_by_a_stream_of_the_highest(store: JobStore) -> None:
    low = submit(store, 0)
    submit(store, 9)
    wait_longer(store, low.id, 8.9 * 3600)
    assert store.queues.position(low) == 1
    wait_longer(store, low.id, 0.2 * 3600)
    submit(store, 9)
    assert store.queues.position(low) == 0
    job = store.claim("default", "w1")
    assert job is not None
    assert job.id == low.id


def test_without_aging_a_job_keeps_its_priority_however_long_it_waits(store: JobStore) -> None:
    store = aging(store, 0)
    low, high = submit(store, 0), submit(store, 1)
    wait_longer(store, low.id, 1e9)
    assert store.queues.waiting() == {"default": [high.id, low.id]}


def test_a_changed_priority_takes_the_wait_along_as_far_as_its_new_line_allows(
    store: JobStore,
) -> None:
    fresh, waited = submit(store, 5), submit(store, 3)
    wait_longer(store, waited.id, 4 * 3600)
    assert store.queues.waiting() == {"default": [waited.id, fresh.id]}
    store.change(waited.id, JobChange(priority=5))
    other = submit(store, 6)
    assert store.queues.waiting() == {"default": [other.id, fresh.id, waited.id]}
    assert store.queues.position(store.get(waited.id)) == 2
    store.change(waited.id, JobChange(priority=2))
    assert store.queues.position(store.get(waited.id)) == 2


def test_a_back_off_is_no_waiting(store: JobStore) -> None:
    retry = Retry(backoff_seconds=3600)
    failing = store.submit(SPEC.model_copy(update={"retry": retry, "priority": 4}))
    job = store.claim("default", "w1")
    assert job is not None
    assert job.current is not None
    ended = job.current.model_copy(update={"reason": Reason.ERROR, "ended_at": 1.0})
    store.finish(failing.id, ended)
    assert store.queues.position(failing) is None
    store.redis.zadd(store.keys.pool("default", "delayed"), {failing.id: store.now() - 3700})
    other = submit(store, 5)
    # 3,700 s since it might run.
    assert store.queues.waiting() == {"default": [failing.id, other.id]}


def test_nobody_has_waited_longer_than_those_before_him_in_his_line(store: JobStore) -> None:
    retry = Retry(backoff_seconds=3600)
    first = submit(store, 4)
    second = store.submit(SPEC.model_copy(update={"retry": retry, "priority": 4}))
    for worker, job, reason in (("w1", first, Reason.PREEMPTED), ("w2", second, Reason.ERROR)):
        claimed = store.claim("default", worker)
        assert claimed is not None
        assert claimed.current is not None
        assert claimed.id == job.id
        if reason is Reason.ERROR:
            ended = claimed.current.model_copy(update={"reason": reason, "ended_at": 1.0})
            store.finish(job.id, ended)
    store.redis.zadd(store.keys.pool("default", "delayed"), {second.id: store.now() - 3700})
    current = store.get(first.id).current
    assert current is not None
    preempted = current.model_copy(update={"reason": Reason.PREEMPTED, "ended_at": 1.0})
    store.finish(first.id, preempted)
    other = submit(store, 5)
    assert store.queues.waiting() == {"default": [other.id, first.id, second.id]}
    assert store.queues.position(second) == 2


def test_a_job_that_an_earlier_version_queued_waits_since_then(store: JobStore) -> None:
    first, second = submit(store, 5), submit(store, 5)
    store.redis.hdel(store.keys.job(first.id), "waits_since")
    third = submit(store, 5)
    assert store.queues.waiting() == {"default": [first.id, second.id, third.id]}
    assert store.queues.position(third) == 2
