"""What the step counter tells of a program that has a checkpoint to go on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitoring.checkpoints.commit import CommitRecord
from monitoring.step_counter import StepCounter
from worker.attempt.observe import restarted
from worker.files.scratch import Restored, Scratch


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
