"""Job store and register under any sequence of calls, by workers old and new, in a real Redis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from jobs.errors import (
    ClaimRefusedError,
    IllegalMoveError,
    JobNotFoundError,
    StaleAttemptError,
    WorkerNotFoundError,
)
from jobs.model.change import JobChange
from jobs.model.record import Attempt, Job, Progress
from jobs.model.rules import lost_attempt
from jobs.model.spec import JobSpec, Retry
from jobs.model.states import MOVES, Reason, Request, State
from jobs.model.workers import WorkerState
from jobs.store.jobs import JobStore
from jobs.store.queues import ExpiredLease
from jobs.store.registry import WorkerRegistry

WORKERS = ["w1", "w2", "w3"]
SPEC = JobSpec(name="a", command=["true"], retry=Retry(backoff_seconds=0))


def weight(request: Request) -> int:
    return list(Request).index(request)


@dataclass(frozen=True)
class Entry:
    """What a worker has said of itself, and what was asked of it."""

    unhealthy: str = ""
    leaving: str = ""
    drained: bool = False

    @property
    def takes_jobs(self) -> bool:
        return not (self.unhealthy or self.leaving or self.drained)

    def state(self, *, busy: bool) -> WorkerState:
        if self.unhealthy:
            return WorkerState.UNHEALTHY
        if self.leaving or self.drained:
            return WorkerState.DRAINING
        return WorkerState.BUSY if busy else WorkerState.IDLE


def ended(job: Job, reason: Reason, at: float, **changes: object) -> Attempt:
    current = job.current
    assert current is not None
    return current.model_copy(
        update={"reason": reason, "ended_at": at, "message": "said so", **changes}
    )


class Lifecycle(RuleBasedStateMachine):
    """Every call at every moment; `held` attempts are never forgotten, so most become stale."""

    store: JobStore  # set by the test

    jobs: Bundle[str] = Bundle("jobs")
    attempts: Bundle[Job] = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.store.redis.flushall()
        self.seen: dict[str, tuple[State, int]] = {}
        self.ends: dict[tuple[str, int], Reason] = {}
        self.marked: set[str] = set()
        self.asked: dict[tuple[str, int], Request] = {}  # what was accepted, and not taken back
        self.replaced: dict[str, Request | None] = {}  # what the newest request stood in for
        self.there: dict[str, Entry] = {}
        self.registry = WorkerRegistry(
            self.store.redis, prefix=self.store.prefix, lease_seconds=600
        )

    @initialize(target=jobs)
    def two_jobs(self) -> Any:
        return multiple(self.submit(5), self.submit(5))

    @rule(target=attempts, job=attempts, reason=st.sampled_from([Reason.LOST, Reason.PREEMPTED]))
    def overtake(self, job: Job, reason: Reason) -> Any:
        """What makes an attempt stale: another one, of the same job, on another worker."""
        if not self.is_current(job) or self.store.get(job.id).request is Request.CANCEL:
            return multiple()
        self.finish(job, reason, saved=self.store.get(job.id).sequence + job.attempt)
        for worker in WORKERS:
            if self.may_claim(worker):
                newer = self.store.claim("default", worker)
                if newer is not None and newer.id == job.id:
                    return newer
        return multiple()

    @rule(target=jobs, priority=st.integers(0, 9))
    def submit(self, priority: int) -> str:
        job = self.store.submit(SPEC.model_copy(update={"priority": priority}))
        self.seen[job.id] = (job.state, 0)
        return job.id

    @rule(target=attempts, worker=st.sampled_from(WORKERS))
    def claim(self, worker: str) -> Job:
        waiting = self.store.queues.waiting().get("default", [])
        busy = self.job_of(worker)
        if not busy and not self.may_claim(worker):
            with pytest.raises(ClaimRefusedError):
                self.store.claim("default", worker)
            return multiple()
        kept = self.store.queues.reserved_for(worker)
        if kept in waiting:
            waiting = [kept]
        job = self.store.claim("default", worker)
        if busy:
            assert job is not None, "a worker with a job is given that job again"
            assert (job.id, job.attempt) == (busy.id, busy.attempt)
        elif not waiting:
            assert job is None
            return multiple()
        else:
            assert job is not None
            assert job.id == waiting[0], "the first in the order is the next"
            assert job.attempt == self.seen[job.id][1] + 1, "each attempt has a new number"
        return job

    @rule(job=attempts, step=st.integers(0, 100))
    def renew(self, job: Job, step: int) -> None:
        current = self.is_current(job)
        try:
            self.store.renew(job.id, job.attempt, Progress(step=step))
        except StaleAttemptError:
            assert not current
        else:
            assert current

    @rule(job=attempts, reason=st.sampled_from(Reason), saved=st.none() | st.integers(0, 100))
    def finish(self, job: Job, reason: Reason, saved: int | None) -> None:
        current = self.is_current(job)
        promised = self.promise(job.id) if current else None
        receipt = ended(job, reason, at=1.0, checkpoint_step=saved)
        try:
            self.store.finish(job.id, receipt)
        except (StaleAttemptError, JobNotFoundError):
            assert not current
            return
        if not current:
            assert self.ends[job.id, job.attempt] == reason, "only the same end may be told twice"
            return
        self.ends[job.id, job.attempt] = reason
        self.check_request_had_its_effect(job)
        if promised is not None:
            assert self.store.queues.reserved_for(promised[0]) == promised[1]

    @rule(job_id=jobs, request=st.sampled_from(Request))
    def request(self, job_id: str, request: Request) -> None:
        if job_id not in self.seen:
            with pytest.raises(JobNotFoundError):
                self.store.request(job_id, request)
            return
        before = self.store.get(job_id)
        pending = before.request
        try:
            after = self.store.request(job_id, request)
        except IllegalMoveError:
            stronger = pending is not None and weight(pending) > weight(request)
            waits = before.state in {State.QUEUED, State.PAUSED}
            assert stronger or before.state is not State.RUNNING
            assert not (request is Request.CANCEL and waits)
            assert (request, before.state) != (Request.PAUSE, State.PAUSED)
            assert self.store.get(job_id) == before, "what is refused changes nothing"
            return
        if before.state is State.RUNNING:
            assert after.request is request
            self.asked[job_id, before.attempt] = request
            if pending is not request:
                self.replaced[job_id] = pending
        elif request is Request.PAUSE:
            assert before.state is State.PAUSED, "what is there already may be asked for again"
            assert after == before
        else:
            assert (request, after.state) == (Request.CANCEL, State.CANCELLED)

    @rule(job_id=jobs, other=jobs)
    def evict(self, job_id: str, other: str) -> None:
        if job_id not in self.seen:
            return
        before = self.store.get(job_id)
        waits = self.state_of(other) is State.QUEUED
        higher = waits and self.store.get(other).priority > before.priority
        running = before.state is State.RUNNING
        done = self.store.evict(job_id, before.attempt, other)
        assert done is (running and higher and before.request in {None, Request.EVICT})
        assert not self.store.evict(job_id, before.attempt + 1, other), "decided for another one"
        if done:
            self.asked[job_id, before.attempt] = Request.EVICT
            if before.request is None:
                assert self.store.queues.evicted_for(job_id) == other

    @rule(job_id=jobs)
    def resume(self, job_id: str) -> None:
        if job_id not in self.seen:
            with pytest.raises(JobNotFoundError):
                self.store.resume(job_id)
            return
        before = self.store.get(job_id)
        pausing = before.state is State.RUNNING and before.request is Request.PAUSE
        try:
            after = self.store.resume(job_id)
        except IllegalMoveError:
            assert before.state is not State.PAUSED
            assert not pausing
            return
        if pausing:
            again = Request.PREEMPT if self.replaced[job_id] is Request.PREEMPT else None
            assert after.request is again
            del self.asked[job_id, before.attempt]
            if after.request is not None:
                self.asked[job_id, before.attempt] = after.request
        else:
            assert (before.state, after.state) == (State.PAUSED, State.QUEUED)

    @rule(job=attempts, first=st.sampled_from(Request))
    def pause_and_take_it_back(self, job: Job, first: Request) -> None:
        for request in (first, Request.PAUSE):
            self.request(job.id, request)
        self.resume(job.id)

    @rule(target=jobs, job=attempts)
    def make_room(self, job: Job) -> str:
        """What evicts: a job of a higher priority, which most running ones have below them."""
        other = self.submit(9)
        self.evict(job.id, other)
        return other

    @rule(job_id=jobs)
    def retry(self, job_id: str) -> None:
        state = self.state_of(job_id)
        may = state in {State.FAILED, State.CANCELLED} and job_id not in self.marked
        try:
            after = self.store.retry(job_id)
        except JobNotFoundError:
            assert state is None
        except IllegalMoveError:
            assert not may
        else:
            assert may
            assert (after.failures, after.no_progress, after.run_seconds) == (0, 0, 0)

    @rule(job_id=jobs, priority=st.integers(0, 9))
    def change(self, job_id: str, priority: int) -> None:
        state = self.state_of(job_id)
        try:
            after = self.store.change(job_id, JobChange(priority=priority))
        except JobNotFoundError:
            assert state is None
        except IllegalMoveError:
            assert state is not None
            assert state.is_final
        else:
            assert after.priority == after.spec.priority == priority

    @rule(job_id=jobs)
    def mark_deleted(self, job_id: str) -> None:
        state = self.state_of(job_id)
        try:
            self.store.mark_deleted(job_id)
        except JobNotFoundError:
            assert state is None
        except IllegalMoveError:
            assert state is not None
            assert not state.is_final
        else:
            self.marked.add(job_id)

    @rule(job_id=jobs)
    def lose(self, job_id: str) -> None:
        """The reaper comes upon an expired lease; and upon one that was renewed meanwhile."""
        if self.state_of(job_id) is not State.RUNNING:
            return
        job = self.store.get(job_id)
        promised = self.promise(job_id)
        receipt = lost_attempt(job, at=1.0, silent_seconds=15)
        assert self.store.finish(job_id, receipt, lease=ExpiredLease(job_id, 0.5)) is None
        self.store.redis.zadd(self.store.keys.leases, {job_id: 0.25})
        (lease,) = self.store.queues.expired_leases(self.store.now())
        after = self.store.finish(job_id, receipt, lease=lease)
        assert after is not None
        assert after.state in {State.QUEUED, State.FAILED, State.CANCELLED, State.PAUSED}
        self.ends[job_id, job.attempt] = Reason.LOST
        self.check_request_had_its_effect(job)
        if promised is not None:
            assert self.store.queues.reserved_for(promised[0]) == promised[1]

    @rule(
        worker=st.sampled_from(WORKERS), unhealthy=st.sampled_from(["", "hot"]),
        leaving=st.sampled_from(["", "", "spot notice"]), drained=st.booleans(),
    )  # fmt: skip
    def renew_entry(self, worker: str, unhealthy: str, leaving: str, drained: bool) -> None:
        """A worker says that it is there; what it knows of a drain counts where Redis forgot."""
        before = self.there.get(worker)
        entry = Entry(unhealthy, leaving, before.drained if before else drained)
        self.there[worker] = entry
        state = self.registry.renew(
            worker, pool="default", host="h", unhealthy=unhealthy, leaving=leaving, drained=drained
        )
        assert state is self.expected_state(worker)

    @rule(worker=st.sampled_from(WORKERS), drained=st.booleans())
    def drain(self, worker: str, drained: bool) -> None:
        call = self.registry.drain if drained else self.registry.undrain
        if worker not in self.there:
            with pytest.raises(WorkerNotFoundError):
                call(worker)
            return
        self.there[worker] = replace(self.there[worker], drained=drained)
        assert call(worker).state is self.expected_state(worker)

    @rule(worker=st.sampled_from(WORKERS))
    def leave(self, worker: str) -> None:
        self.registry.leave(worker)
        self.there.pop(worker, None)

    @rule(job_id=consumes(jobs))
    def delete(self, job_id: str) -> None:
        state = self.state_of(job_id)
        try:
            self.store.delete(job_id)
        except IllegalMoveError:
            assert state is not None
            assert not state.is_final
        except JobNotFoundError:
            assert state is None
        else:
            del self.seen[job_id]

    @invariant()
    def every_move_was_legal_and_every_index_agrees(self) -> None:
        redis, keys = self.store.redis, self.store.keys
        jobs = {job_id: self.store.get(job_id) for job_id in self.seen}
        members = {state: redis.zrange(keys.jobs_in(state), 0, -1) for state in State}
        queued = redis.zrange(keys.pool("default", "queued"), 0, -1)
        leased, outbox = (redis.zrange(key, 0, -1) for key in (keys.leases, keys.outbox))
        for job_id, (state, attempt) in list(self.seen.items()):
            job = jobs[job_id]
            moved = job.state is not state or job.attempt != attempt
            legal = job.state in MOVES[state] or any(
                job.state in MOVES[middle] for middle in MOVES[state]
            )
            assert not moved or legal, f"{state} became {job.state}"
            assert job.attempt - attempt in {0, 1}
            assert [a.number for a in job.attempts] == list(range(1, job.attempt + 1))
            assert (job.finished_at is not None) is job.state.is_final
            assert (job.worker is not None) is (job.state is State.RUNNING)
            assert {s for s in State if job_id in members[s]} == {job.state}
            assert (job_id in queued) is (job.state is State.QUEUED)
            assert (job_id in leased) is (job.state is State.RUNNING)
            assert job.state is State.QUEUED or job_id not in outbox
            self.seen[job_id] = (job.state, job.attempt)
        waiting = self.store.queues.waiting().get("default", [])
        queued_ids = [j for j, (state, _) in self.seen.items() if state is State.QUEUED]
        assert sorted(waiting) == sorted(queued_ids), "every queued job can be woken"
        in_order = sorted((jobs[j] for j in queued), key=lambda j: (-j.priority, j.sequence))
        assert queued == [job.id for job in in_order]
        running = {j.worker: j.id for j in jobs.values() if j.state is State.RUNNING}
        assert redis.hgetall(keys.claims) == running
        assert redis.zcard(keys.jobs) == len(self.seen)
        for job in jobs.values():
            assert job.request is self.asked.get((job.id, job.attempt) if job.worker else ("", 0))
            assert job.worker or not self.store.queues.evicted_for(job.id)

    @invariant()
    def the_register_agrees_with_the_records(self) -> None:
        workers = {worker.name: worker for worker in self.registry.workers()}
        assert workers.keys() == self.there.keys()
        jobs = {job.worker: job for job in self.store.newest(state=State.RUNNING)}
        for name, worker in workers.items():
            job = jobs.get(name)
            assert worker.state is self.there[name].state(busy=job is not None)
            assert worker.job == (job.id if job else None)

    def job_of(self, worker: str) -> Job | None:
        running = self.store.newest(state=State.RUNNING)
        return next((job for job in running if job.worker == worker), None)

    def may_claim(self, worker: str) -> bool:
        return worker not in self.there or self.there[worker].takes_jobs

    def expected_state(self, worker: str) -> WorkerState:
        return self.there[worker].state(busy=self.job_of(worker) is not None)

    def promise(self, job_id: str) -> tuple[str, str] | None:
        """The worker of an evicted job and the job that is to have its place."""
        job, other = self.store.get(job_id), self.store.queues.evicted_for(job_id)
        evicted = job.request is Request.EVICT and job.worker is not None and other
        return (job.worker, other) if evicted else None

    def check_request_had_its_effect(self, job: Job) -> None:
        """What was accepted is never forgotten, unless the job ended for good."""
        asked = self.asked.pop((job.id, job.attempt), None)
        after = self.store.get(job.id)
        assert after.state is not State.RUNNING
        assert after.request is None
        if after.state in {State.SUCCEEDED, State.FAILED}:
            too_late = f"the request to {asked} came too late"
            assert (too_late in after.message) is (asked is not None)
            return
        if asked is Request.CANCEL:
            assert after.state is State.CANCELLED
        elif asked is Request.PAUSE:
            assert after.state in {State.PAUSED, State.CANCELLED}
        else:
            assert after.state in {State.QUEUED, State.CANCELLED}

    def state_of(self, job_id: str) -> State | None:
        return self.seen[job_id][0] if job_id in self.seen else None

    def is_current(self, job: Job) -> bool:
        return self.seen.get(job.id) == (State.RUNNING, job.attempt)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("sequences", [30, pytest.param(100, marks=pytest.mark.thorough)])
def test_no_sequence_of_calls_reaches_an_illegal_state_or_lets_an_old_attempt_write(
    store: JobStore, sequences: int
) -> None:
    machine = type("LifecycleHere", (Lifecycle,), {"store": store})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
