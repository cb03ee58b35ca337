"""What is known of an attempt by its step counter, and by what is read of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from jobs.model.spec import JobSpec, Limits
from monitoring.checkpoints.commit import CommitRecord
from monitoring.step_counter import StepCounter
from worker.attempt.observe import Observer, restarted
from worker.attempt.outcome import StopReason
from worker.files.scratch import Restored, Scratch
from worker.progress.reader import Reading


@pytest.mark.parametrize(
    ("steps", "anew", "may_have"),
    [
        ([], False, False),
        ([0], False, True),
        ([0, 1], True, True),
        ([0, 100], True, True),
        ([0, *range(1, 200)], True, True),
        ([0, 101, 102], False, False),
        ([101, 102], False, False),
        ([51, 52], False, False),
    ],
    ids=[
        "no step yet", "one that may be none", "it counts from 0", "by large steps",
        "and is beyond its checkpoint by now", "a row of step 0, and on from its checkpoint",
        "on from its checkpoint", "on from an older one",
    ],
)  # fmt: skip
def test_a_program_that_counts_from_0_on_has_forgotten_its_checkpoint(
    tmp_path: Path, steps: list[int], anew: bool, may_have: bool
) -> None:
    scratch = Scratch(tmp_path, "job", 2)
    scratch.root.mkdir(parents=True)
    counter = StepCounter(scratch.steps)
    for step in steps:
        counter.beat(step)
    restored = Restored(CommitRecord(100, 1, "crc32:0", 1, 0.0), {}, {})
    assert restarted(scratch, restored) is anew
    assert restarted(scratch, restored, undecided=True) is may_have


def test_a_program_without_a_later_checkpoint_may_begin_at_0(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, "job", 1)
    scratch.root.mkdir(parents=True)
    counter = StepCounter(scratch.steps)
    for step in range(3):
        counter.beat(step)
    assert not restarted(scratch, Restored(None, {}, {}))
    assert not restarted(scratch, Restored(CommitRecord(0, 1, "crc32:0", 1, 0.0), {}, {}))


def observed(tmp_path: Path, readings: list[Reading], **spec: object) -> Observer:
    """An observer that has seen these readings, in their order."""
    scratch = Scratch(tmp_path, "job", 1)
    scratch.root.mkdir(parents=True)
    seen = iter(readings)
    now = [Reading()]

    def reading() -> Reading:
        now[0] = next(seen, now[0])
        return now[0]

    fields = {"name": "a", "command": ["t"], **spec}
    observer = Observer(
        JobSpec.model_validate(fields), scratch, Restored(None, {}, {}), 0.0, reading
    )
    for _ in readings:
        observer.progress()
    return observer


STEPS = [Reading("output", step, signs=step) for step in (1, 2)]
STALLED = Limits(stall_seconds=1e-9)
NAMED = {"step": r"step (\d+)"}


def test_what_is_read_never_says_which_steps_were_made_twice(tmp_path: Path) -> None:
    reading = Reading("output", 7, total=9, loss=0.5, step_seconds=2.0, signs=1)
    progress = observed(tmp_path, [reading]).progress()
    assert (progress.step, progress.total_steps, progress.loss) == (7, 9, 0.5)
    assert (progress.step_source, progress.seconds_left) == ("output", 4.0)
    assert progress.first_step is None
    assert progress.step_seconds is None


def test_steps_that_a_program_counts_come_first(tmp_path: Path) -> None:
    reading = Reading("tensorboard", 700, total=900, loss=0.5, signs=1)
    observer = observed(tmp_path, [reading])
    StepCounter(tmp_path / "job" / "1" / "steps").beat(3)
    progress = observer.progress()
    assert (progress.step, progress.step_source, progress.total_steps) == (3, None, None)
    assert progress.loss == 0.5


def test_a_job_that_names_its_steps_can_stall(tmp_path: Path) -> None:
    observer = observed(tmp_path, STEPS, progress=NAMED)
    observer._longest = 0.0
    assert observer.violation(STALLED, 0.0) is StopReason.STALL


def test_a_step_that_takes_as_long_as_the_one_before_is_no_stall(tmp_path: Path) -> None:
    observer = observed(tmp_path, STEPS, progress=NAMED)
    observer._longest = 3600.0
    assert observer.violation(STALLED, 0.0) is None


@pytest.mark.parametrize(
    ("readings", "spec"), [(STEPS[:1], {"progress": NAMED}), (STEPS, {})], ids=["one step", "found"]
)
def test_a_program_of_which_little_is_known_cannot_stall(
    tmp_path: Path, readings: list[Reading], spec: dict[str, object]
) -> None:
    observer = observed(tmp_path, readings, **spec)
    observer._longest = 0.0
    assert observer.violation(STALLED, 0.0) is None


def test_only_a_loss_that_the_job_names_ends_it(tmp_path: Path) -> None:
    found = Reading("tensorboard", 1, loss=math.nan, signs=1)
    assert observed(tmp_path / "1", [found]).violation(Limits(), 0.0) is None
    named = Reading("output", 1, loss=math.nan, signs=1, diverged=True)
    observer = observed(tmp_path / "2", [named])
    assert observer.violation(Limits(), 0.0) is StopReason.DIVERGED
    assert observer.violation(Limits(stop_on_nan=False), 0.0) is None


def test_a_program_may_say_how_many_steps_it_makes(tmp_path: Path) -> None:
    observer = observed(tmp_path, [Reading("tensorboard", 700, total=900)])
    counter = StepCounter(tmp_path / "job" / "1" / "steps")
    counter.expect(12)
    for step in range(5):
        counter.beat(step)
    progress = observer.progress()
    assert (progress.step, progress.total_steps) == (4, 12)
    assert progress.seconds_left is not None
