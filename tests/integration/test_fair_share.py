"""The fair share between owners, and their limits, against a model in plain Python."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from jobs.accounts.store import TokenStore
from jobs.model.change import JobChange
from jobs.model.record import Job
from jobs.model.spec import JobSpec, Resources, Retry
from jobs.model.states import Reason, State
from jobs.reaper.evictor import Evictor
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from tests.integration.turns import aging, pass_time, run_turns

AGING = 1000.0
SPEC = JobSpec(name="a", command=["true"], retry=Retry(backoff_seconds=0))
OWNERS = ["", "ada", "bob", "eve"]
LIMITS = {"bob": 2, "eve": 0}


@dataclass
class Waiting:
    """A queued job as the rule sees it; `waited` in seconds."""

    id: str
    owner: str
    priority: int
    sequence: int
    waited: float = 0.0

    @property
    def counts(self) -> int:
        return min(9, self.priority + int(self.waited // AGING))


@dataclass
class Share:
    """An owner: the jobs that run, the turns that were had, and the time of coming."""

    running: int = 0
    turns: int = 0
    came: int = 0
    queue: list[Waiting] = field(default_factory=list)

    def first(self) -> Waiting:
        return min(self.queue, key=lambda job: (-job.counts, job.sequence))


class Model:
    """The rule, as docs/concepts/queue.md states it."""

    def __init__(self) -> None:
        self.shares = {owner: Share() for owner in OWNERS}
        self.fewest = 0
        self.arrivals = 0

    def add(self, job: Waiting) -> None:
        share = self.shares[job.owner]
        if not share.queue:
            self.arrivals += 1
            share.came, share.turns = self.arrivals, max(share.turns, self.fewest)
        share.queue.append(job)

    def ready(self) -> list[tuple[str, Share]]:
        return [
            (owner, share)
            for owner, share in self.shares.items()
            if share.queue and share.running < LIMITS.get(owner, 1000)
        ]

    def next(self) -> Waiting | None:
        def place(share: Share) -> tuple[int, int, int, int]:
            return -share.first().counts, share.running, share.turns, share.came

        found = [share for _, share in self.ready()]
        return min(found, key=place).first() if found else None

    def claim(self, job: Waiting) -> None:
        self.fewest = min(share.turns for _, share in self.ready())
        share = self.shares[job.owner]
        share.queue.remove(job)
        share.running, share.turns = share.running + 1, share.turns + 1

    def order(self) -> list[str]:
        """The jobs in the order of claims, if none ends meanwhile."""
        ahead = Model()
        ahead.shares = {o: replace(s, queue=list(s.queue)) for o, s in self.shares.items()}
        found = []
        while (job := ahead.next()) is not None:
            found.append(job.id)
            ahead.claim(job)
        return found


class Turns(RuleBasedStateMachine):
    """Jobs of several owners come, run, end and are preempted, and time passes."""

    store: JobStore  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.store.redis.flushall()
        TokenStore(self.store.redis, self.store.prefix).limit(
            {owner: (most, -1) for owner, most in LIMITS.items()}
        )
        self.model = Model()
        self.running: list[tuple[Job, Waiting]] = []
        self.claims = 0

    @rule(owner=st.sampled_from(OWNERS), priority=st.sampled_from([4, 5, 5, 5, 9]))
    def submit(self, owner: str, priority: int) -> None:
        spec = SPEC.model_copy(update={"priority": priority})
        told = self.store.queues.place_of_new("default", priority, owner or None)
        job = self.store.submit(spec, owner=owner or None)
        assert self.store.queues.place(job) == told
        self.model.add(Waiting(job.id, owner, priority, job.sequence))

    @rule(seconds=st.sampled_from([370, 610, 1130, 3000]))
    def pass_time(self, seconds: int) -> None:
        jobs = [job for share in self.model.shares.values() for job in share.queue]
        pass_time(self.store, [job.id for job in jobs], seconds)
        for job in jobs:
            job.waited += seconds

    @rule()
    def claim(self) -> None:
        self.claims += 1
        job, first = self.store.claim("default", f"w{self.claims}"), self.model.next()
        assert (job and job.id) == (first and first.id)
        if job is not None and first is not None:
            self.model.claim(first)
            self.running.append((job, first))

    @rule(data=st.data(), reason=st.sampled_from([Reason.COMPLETED, Reason.PREEMPTED]))
    def end(self, data: st.DataObject, reason: Reason) -> None:
        if not self.running:
            return
        job, entry = data.draw(st.sampled_from(self.running))
        self.running.remove((job, entry))
        assert job.current is not None
        ended = job.current.model_copy(update={"reason": reason, "ended_at": 1.0})
        self.store.finish(job.id, ended)
        self.model.shares[entry.owner].running -= 1
        if reason is Reason.PREEMPTED:
            queue = self.model.shares[entry.owner].queue
            line = [other for other in queue if other.priority == entry.priority]
            before = [o.waited for o in line if o.sequence < entry.sequence]
            behind = [o.waited for o in line if o.sequence > entry.sequence]
            entry.waited = min([max([0.0, *behind]), *before])
            self.model.add(entry)

    @rule()
    def lose_the_lines(self) -> None:
        """As an earlier version leaves them; the order in which owners came is that of jobs."""
        keys = self.store.keys
        for owner in OWNERS:
            self.store.redis.delete(keys.of_owner("default", "queued", owner))
        before = self.store.redis.zrange(keys.pool("default", "owners"), 0, -1, withscores=True)
        self.store.queues.repair()
        if before:  # when they came is lost, and would have to be modelled
            self.store.redis.zadd(keys.pool("default", "owners"), dict(before))
            self.store.redis.delete(keys.pool("default", "ranked:aging"))

    @invariant()
    def the_queue_is_told_as_it_would_be_claimed(self) -> None:
        expected = self.model.order()
        assert self.store.queues.next_in_turn("default") == expected
        assert self.store.queues.next_in_turn("default", 2) == expected[:2]
        registry = WorkerRegistry(self.store.redis, prefix=self.store.prefix, lease_seconds=60)
        pool = registry.pool("default")
        assert pool.wanted == len(expected) + len(self.running), "workers that would have work"
        assert pool.held == sum(len(s.queue) for s in self.model.shares.values()) - len(expected)
        positions = [self.store.queues.position(self.store.get(job_id)) for job_id in expected]
        assert positions == list(range(len(expected)))
        for owner, share in self.model.shares.items():
            for job in share.queue:
                place = self.store.queues.place(self.store.get(job.id))
                assert place is not None
                assert bool(place.held) == (share.running >= LIMITS.get(owner, 1000))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("sequences", [30, pytest.param(300, marks=pytest.mark.thorough)])
def test_claims_listing_and_positions_follow_the_rule_whatever_happens(
    store: JobStore, sequences: int
) -> None:
    run_turns(Turns, aging(store, AGING), sequences)


def submit(store: JobStore, owner: str, gpus: int = 0, priority: int = 5) -> Job:
    spec = SPEC.model_copy(update={"resources": Resources(gpus=gpus), "priority": priority})
    return store.submit(spec, owner=owner)


def end(store: JobStore, job: Job) -> None:
    assert job.current is not None
    ended = job.current.model_copy(update={"reason": Reason.COMPLETED, "ended_at": 1.0})
    store.finish(job.id, ended)


def limit(store: JobStore, **owners: tuple[int, int]) -> None:
    TokenStore(store.redis, store.prefix).limit(owners)


def test_no_worker_is_wanted_for_jobs_that_a_limit_holds(store: JobStore) -> None:
    limit(store, ada=(2, -1), bob=(-1, 4))
    for _ in range(5):
        submit(store, "ada")
        submit(store, "bob", gpus=2)
        submit(store, "eve")
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60)
    pool = registry.pool("default")
    assert (pool.queued, pool.held, pool.wanted) == (15, 3 + 3, 2 + 2 + 5)
    claimed = [store.claim("default", f"w{number}") for number in range(10)]
    assert claimed[9] is None
    pool = registry.pool("default")
    assert (pool.queued, pool.held, pool.running, pool.wanted) == (6, 6, 9, 9)


@pytest.mark.parametrize("workers", [1, 3])
def test_somebody_with_500_jobs_does_not_hold_up_somebody_with_two(
    store: JobStore, workers: int
) -> None:
    for _ in range(500):
        submit(store, "ada")
    first = [store.claim("default", f"w{n}") for n in range(workers)]
    for _ in range(2):
        submit(store, "bob")
    owners = []
    for number, job in enumerate(first * 4):
        running = store.claim("default", f"w{number % workers}") if number >= workers else job
        assert running is not None
        end(store, running)
        claimed = store.claim("default", f"w{number % workers}")
        assert claimed is not None
        owners.append(claimed.owner)
    assert owners.index("bob") == 0, "the next free worker is bob's"
    assert owners.count("bob") == 2
    assert "bob" in owners[1 : 2 * workers + 1]


def test_who_comes_back_has_saved_up_no_turns(store: JobStore) -> None:
    for _ in range(20):
        submit(store, "ada")
    submit(store, "bob")
    for _ in range(8):
        job = store.claim("default", "w")
        assert job is not None
        end(store, job)
    for _ in range(10):
        submit(store, "bob")
    owners = []
    for _ in range(6):
        job = store.claim("default", "w")
        assert job is not None
        owners.append(job.owner)
        end(store, job)
    assert owners.count("bob") == 3, "bob has had one turn and ada seven, which gives bob no credit"


def test_priority_goes_before_the_share(store: JobStore) -> None:
    low, high = submit(store, "bob"), submit(store, "ada", priority=6)
    assert store.claim("default", "w") is not None
    another = submit(store, "ada", priority=6)
    assert store.queues.next_in_turn("default") == [another.id, low.id]
    assert store.get(high.id).state is State.RUNNING
    store.change(another.id, JobChange(priority=5))
    assert store.queues.next_in_turn("default") == [low.id, another.id]


def test_a_job_that_has_waited_long_goes_before_those_of_others_without_any_change(
    store: JobStore,
) -> None:
    store = aging(store, AGING)
    low = submit(store, "bob")
    for _ in range(2):
        submit(store, "ada", priority=6)
    first = store.claim("default", "w")
    assert first is not None
    end(store, first)
    assert first.owner == "ada"
    pass_time(store, [low.id], 2 * AGING)
    claimed = store.claim("default", "w")
    assert claimed is not None
    assert claimed.id == low.id


def test_a_job_over_its_owners_limit_waits_with_a_reason_and_holds_up_nobody(
    store: JobStore,
) -> None:
    limit(store, ada=(1, -1))
    first, second = submit(store, "ada", priority=9), submit(store, "ada", priority=9)
    other = submit(store, "bob", priority=1)
    claimed = [store.claim("default", f"w{n}") for n in range(3)]
    assert [job and job.id for job in claimed] == [first.id, other.id, None]
    place = store.queues.place(second)
    assert place is not None
    assert place.held == (
        "ada runs 1 of 1 jobs that may run at once: it waits until one of them ends"
    )
    end(store, store.get(first.id))
    job = store.claim("default", "w0")
    assert job is not None
    assert job.id == second.id


def test_gpus_are_counted_over_all_pools(store: JobStore) -> None:
    limit(store, ada=(-1, 4))
    elsewhere = SPEC.model_copy(update={"resources": Resources(gpus=3, pool="other")})
    store.submit(elsewhere, owner="ada")
    assert store.claim("other", "v") is not None
    two, none, other = submit(store, "ada", 2), submit(store, "ada"), submit(store, "bob", 8)
    assert store.queues.next_in_turn("default") == [other.id], "the owner's order is kept"
    place = store.queues.place(none)
    assert place is not None
    assert "use 3 of 4 GPUs" in place.held
    limit(store, ada=(-1, 5))
    order = store.queues.next_in_turn("default")
    assert sorted(order) == sorted([two.id, none.id, other.id])
    assert order.index(two.id) < order.index(none.id)


def test_the_limit_of_all_others_is_that_of_whoever_has_none(store: JobStore) -> None:
    limit(store, **{"*": (1, -1), "bob": (2, -1)})
    for owner in ("ada", "ada", "bob", "bob", "bob"):
        submit(store, owner)
    nobodys = [store.submit(SPEC).id for _ in range(3)]
    claimed = [store.claim("default", f"w{n}") for n in range(8)]
    owners = [job.owner for job in claimed if job]
    assert sorted(filter(None, owners)) == ["ada", "bob", "bob"]
    assert owners.count(None) == len(nobodys), "jobs without an owner have no limit"


def test_no_job_is_evicted_for_one_that_limits_hold(store: JobStore) -> None:
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60)
    registry.renew("w", pool="default", host="h")
    submit(store, "bob", priority=1)
    assert store.claim("default", "w") is not None
    limit(store, ada=(0, -1))
    submit(store, "ada", priority=9)
    evictor = Evictor(store, min_seconds=0)
    assert evictor.run_once(store.now() + 60) == []
    limit(store, ada=(1, -1))
    assert len(evictor.run_once(store.now() + 60)) == 1


def test_a_reserved_place_is_no_way_around_a_limit(store: JobStore) -> None:
    reserved, other = submit(store, "ada", priority=9), submit(store, "bob")
    store.redis.set(store.keys.reserved("w"), reserved.id)
    limit(store, ada=(0, -1))
    claimed = store.claim("default", "w")
    assert claimed is not None
    assert claimed.id == other.id
