"""Who makes room for whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.model.eviction import Eviction, Running, Slot, Waiting, evictions, loss_seconds
from jobs.model.record import Attempt, Job, Progress
from jobs.model.spec import JobSpec
from jobs.model.states import Request, State
from workload.settings import CheckpointConfig

MIN = 120.0

waiting_jobs = st.lists(
    st.builds(Waiting, id=st.just(""), priority=st.integers(0, 9), gpus=st.integers(0, 2)),
    max_size=6,
).map(lambda jobs: [replace(job, id=f"q{n}") for n, job in enumerate(jobs)])


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[Waiting], list[Slot]]:
    waiting = draw(waiting_jobs)
    names = st.sampled_from([*(job.id for job in waiting), "gone"])
    slots = []
    for number in range(draw(st.integers(0, 6))):
        request = draw(st.none() | st.none() | st.sampled_from(Request))
        running = Running(
            id=f"r{number}",
            attempt=1,
            priority=draw(st.sampled_from([0, 1, 1, 5, 9])),
            preemptible=draw(st.sampled_from([True, True, False])),
            run_seconds=draw(st.sampled_from([0.0, 119.0, 120.0, 5000.0])),
            loss_seconds=draw(st.sampled_from([0.0, 10.0, 300.0])),
            request=request,
            evicted_for=draw(names) if request is Request.EVICT else None,
        )
        idle = draw(st.integers(0, 4)) == 0
        slots.append(
            Slot(
                f"w{number}",
                draw(st.integers(0, 2)),
                None if idle else running,
                draw(st.none() | names) if idle else None,
            )
        )
    return waiting, slots


@given(pools())
def test_only_what_may_be_evicted_makes_room_for_one_that_is_worth_it(
    pool: tuple[list[Waiting], list[Slot]],
) -> None:
    waiting, slots = pool
    jobs = {job.id: job for job in waiting}
    running = {slot.running.id: (slot, slot.running) for slot in slots if slot.running}
    for eviction in evictions(waiting, slots, MIN):
        slot, victim = running[eviction.job_id]
        assert victim.preemptible
        assert victim.request is None
        assert victim.run_seconds >= MIN
        assert victim.priority < jobs[eviction.for_job].priority
        assert slot.gpus >= jobs[eviction.for_job].gpus


@given(pools())
def test_no_two_victims_for_one_job_and_no_more_than_deserve_a_slot(
    pool: tuple[list[Waiting], list[Slot]],
) -> None:
    waiting, slots = pool
    found = evictions(waiting, slots, MIN)
    assert len({eviction.for_job for eviction in found}) == len(found)
    assert len({eviction.job_id for eviction in found}) == len(found)
    promised = {slot.promised_to for slot in slots}
    assert not promised & {eviction.for_job for eviction in found}


@given(pools())
def test_nobody_is_evicted_for_a_job_that_a_slot_comes_free_for(
    pool: tuple[list[Waiting], list[Slot]],
) -> None:
    waiting, slots = pool
    free = [s for s in slots if s.comes_free and s.promised_to not in {j.id for j in waiting}]
    served = {s.promised_to for s in slots if s.comes_free}
    fitting = [job for job in waiting if job.id not in served]
    # The first in turn has one where any fits.
    if fitting and any(slot.gpus >= fitting[0].gpus for slot in free):
        assert fitting[0].id not in {e.for_job for e in evictions(waiting, slots, MIN)}
    if len([slot for slot in free if slot.gpus == 2]) >= len(fitting):
        assert evictions(waiting, slots, MIN) == []


@given(pools())
def test_once_asked_they_are_not_asked_again(pool: tuple[list[Waiting], list[Slot]]) -> None:
    waiting, slots = pool
    found = {eviction.job_id: eviction for eviction in evictions(waiting, slots, MIN)}
    after = [
        replace(slot, running=asked(slot.running, found[slot.running.id]))
        if slot.running and slot.running.id in found
        else slot
        for slot in slots
    ]
    assert evictions(waiting, after, MIN) == []


def asked(running: Running, eviction: Eviction) -> Running:
    return replace(running, request=Request.EVICT, evicted_for=eviction.for_job)


@given(pools())
def test_the_victim_is_of_the_lowest_priority_and_loses_least(
    pool: tuple[list[Waiting], list[Slot]],
) -> None:
    waiting, slots = pool
    found = evictions(waiting, slots, MIN)
    chosen = {eviction.job_id for eviction in found}
    running = {slot.running.id: slot for slot in slots if slot.running}
    jobs = {job.id: job for job in waiting}
    for eviction in found:
        victim = running[eviction.job_id].running
        assert victim is not None
        for slot in running.values():
            other = slot.running
            assert other is not None
            spared = other.id not in chosen and other.preemptible and other.request is None
            fits = slot.gpus >= jobs[eviction.for_job].gpus
            if spared and fits and other.run_seconds >= MIN:
                assert (victim.priority, victim.loss_seconds) <= (
                    other.priority,
                    other.loss_seconds,
                )


def test_the_job_of_highest_priority_is_served_first_whoever_is_first_in_turn() -> None:
    aged, high = Waiting("aged", 3), Waiting("high", 8)
    slots = [Slot("w", running=Running("low", 1, 2, run_seconds=500))]
    assert evictions([aged, high], slots, MIN) == [Eviction("low", 1, "high")]


def test_of_two_of_one_priority_the_one_that_loses_less_makes_room() -> None:
    slots = [
        Slot(f"w{n}", running=Running(f"r{n}", 1, priority, run_seconds=500 - n, loss_seconds=loss))
        for n, (priority, loss) in enumerate([(3, 1.0), (2, 60.0), (2, 20.0), (2, 40.0)])
    ]
    assert evictions([Waiting("high", 8)], slots, MIN) == [Eviction("r2", 1, "high")]


# -- what a job would lose --------------------------------------------------------------------


def running_job(progress: Progress | None = None, **spec: Any) -> Job:
    return Job(
        id="a-1",
        spec=JobSpec(name="a", command=["true"], **spec),
        state=State.RUNNING,
        sequence=1,
        attempt=1,
        priority=5,
        progress=progress,
        submitted_at=0.0,
        queued_at=0.0,
        attempts=[Attempt(number=1, worker="w", started_at=1000.0)],
    )


def every(steps: int | None, seconds: float | None) -> CheckpointConfig:
    return CheckpointConfig(every_steps=steps, every_seconds=seconds)


@pytest.mark.parametrize(
    ("progress", "checkpoint", "loss"),
    [
        pytest.param(Progress(step=99, first_step=0, checkpoint_step=89), every(500, 300), 10.0,
                     id="the steps since the checkpoint, at the pace of the attempt"),
        pytest.param(Progress(step=299, first_step=200, resumed_from=199, checkpoint_step=199),
                     every(500, 300), 100.0, id="a resumed attempt without one of its own"),
        pytest.param(Progress(step=99, first_step=0), every(20, None), 20.0,
                     id="none committed: its interval in steps"),
        pytest.param(Progress(step=99, first_step=0), every(500, 30), 30.0,
                     id="none committed: its interval in seconds"),
        pytest.param(None, every(None, 40), 40.0, id="a program that counts no steps"),
        pytest.param(Progress(step=99, first_step=0, checkpoint_step=99), every(500, 300), 0.0,
                     id="all of it is saved"),
    ],
)  # fmt: skip
def test_the_loss_is_what_is_done_again_and_at_most_a_checkpoint_interval(
    progress: Progress | None, checkpoint: CheckpointConfig, loss: float
) -> None:
    assert loss_seconds(running_job(progress, checkpoint=checkpoint), 1100.0) == pytest.approx(loss)


def test_a_restore_costs_what_it_took_the_last_time() -> None:
    job = running_job(Progress(step=99, first_step=0, checkpoint_step=89))
    attempts = [
        Attempt(number=n, worker="w", started_at=1000.0, restore_seconds=seconds)
        for n, seconds in enumerate([90.0, 7.0, None], start=1)
    ]
    longer = job.model_copy(update={"attempts": attempts})
    assert loss_seconds(longer, 1100.0) == loss_seconds(job, 1100.0) + 7.0


def test_a_job_that_never_means_to_save_is_not_protected_by_that() -> None:
    assert loss_seconds(running_job(checkpoint=every(None, None)), 1e6) == 300.0
