"""Checkpoints that a program writes without commit records, through storage to the next attempt."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from monitoring import CheckpointManager, MetricsLogger
from monitoring.checkpoints import commit
from monitoring.paths import commit_record
from tests.unit.monitoring.test_adoption import MODEL, OPTIMIZER, write
from tests.unit.worker.test_publish import Attempt
from worker.attempt.observe import restarted
from worker.files.restore import rewind


@pytest.fixture
def first(tmp_path: Path) -> Attempt:
    return Attempt(tmp_path, 1)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def published(attempt: Attempt, *steps: int) -> None:
    """What the program wrote gets into storage: in two passes, between which it did not change."""
    for step in steps:
        write(attempt.run.root, step)
    attempt.publisher.publish()
    attempt.publisher.publish()


def test_a_whole_checkpoint_is_published_with_a_record_that_its_program_does_not_see(
    first: Attempt,
) -> None:
    published(first, 100, 150)
    assert names(first.stored.checkpoints) == {
        "checkpoint_step_100.pt", "checkpoint_step_100.pt.json", "checkpoint_step_150.pt",
        "checkpoint_step_150.pt.json", "checkpoint_latest.pt",
    }  # fmt: skip
    assert names(first.run.checkpoints) == {
        "checkpoint_step_100.pt", "checkpoint_step_150.pt", "checkpoint_latest.pt",
    }  # fmt: skip
    record = commit.verify(first.stored.checkpoint(150))
    assert (record.step, record.attempt, record.adopted) == (150, 1, True)
    assert first.publisher.checkpoint == record


def test_a_half_written_checkpoint_is_not_published(first: Attempt) -> None:
    path = write(first.run.root, 100)
    data = path.read_bytes()
    with path.open("wb") as file:
        for start in range(0, len(data), len(data) // 3):
            file.write(data[start : start + len(data) // 3])
            file.flush()
            first.publisher.publish()
            assert not first.stored.checkpoint(100).exists()
    published(first)
    assert commit.verify(first.stored.checkpoint(100)).adopted


def test_the_next_attempt_goes_on_from_it(first: Attempt, tmp_path: Path) -> None:
    published(first, 100, 150)
    second = Attempt(tmp_path, 2)
    assert second.restored.checkpoint is not None
    assert second.restored.checkpoint.step == 150
    assert second.restored.checkpoint.checksum.startswith("crc32:")
    assert second.run.latest_checkpoint.readlink() == Path("checkpoint_step_150.pt")
    assert names(second.run.checkpoints) == names(first.run.checkpoints)
    before = names(second.stored.checkpoints)
    second.publisher.publish()
    second.publisher.publish()
    assert names(second.stored.checkpoints) == before
    write(second.run.root, 200)
    published(second)
    assert second.publisher.checkpoint is not None
    assert second.publisher.checkpoint.step == 200


def test_files_from_before_records_are_checkpoints_and_stay(first: Attempt, tmp_path: Path) -> None:
    for step in (150, 100):  # `latest` is the one of step 100
        write(first.run.root, step)
    first.publisher.close("ended")
    first.publisher.publish()
    for step in (150, 100):
        commit_record(first.stored.checkpoint(step)).unlink()
    second = Attempt(tmp_path, 2)
    assert second.restored.checkpoint is not None
    assert second.restored.checkpoint.step == 100
    second.publisher.publish()
    second.publisher.publish()
    assert {"checkpoint_step_100.pt", "checkpoint_step_150.pt"} <= names(second.stored.checkpoints)
    assert not commit_record(second.stored.checkpoint(150)).exists(), "it is an older one"
    assert Attempt(tmp_path, 3).restored.checkpoint is not None


def test_a_whole_file_beside_committed_ones_is_neither_taken_for_newest_nor_removed(
    first: Attempt, tmp_path: Path
) -> None:
    manager = CheckpointManager(first.run.root)
    for step in (10, 20):
        manager.save_checkpoint(step, MODEL, OPTIMIZER, [], {})
    published(first)
    shutil.rmtree(first.stored.root / ".moments")  # as a run from before moments
    commit_record(first.stored.checkpoint(20)).unlink()  # a worker was killed before it
    first.stored.latest_checkpoint.unlink()
    first.stored.latest_checkpoint.symlink_to("checkpoint_step_10.pt")
    second = Attempt(tmp_path, 2)
    assert second.restored.checkpoint is not None
    assert second.restored.checkpoint.step == 10
    second.publisher.publish()
    assert second.stored.checkpoint(20).exists()


def test_a_program_that_uses_this_library_goes_on_with_anothers_run(
    first: Attempt, tmp_path: Path
) -> None:
    published(first, 150)
    second = Attempt(tmp_path, 2)
    manager = CheckpointManager(second.run.root, keep_last_n=1)
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint["step"] == 150
    second.publisher.publish()
    assert commit.verify(second.stored.checkpoint(150)).adopted
    third = Attempt(tmp_path, 3)
    manager = CheckpointManager(third.run.root, keep_last_n=1)
    assert manager.load_latest_checkpoint() is not None
    manager.save_checkpoint(160, MODEL, OPTIMIZER, [], {})
    third.publish()
    assert names(third.stored.checkpoints) == {
        "checkpoint_step_160.pt", "checkpoint_step_160.pt.json", "checkpoint_latest.pt",
    }  # fmt: skip


def test_what_the_program_removes_goes_with_its_record(first: Attempt) -> None:
    published(first, 100, 150)
    first.run.checkpoint(100).unlink()
    first.publish()
    assert names(first.stored.checkpoints) == {
        "checkpoint_step_150.pt", "checkpoint_step_150.pt.json", "checkpoint_latest.pt",
    }  # fmt: skip


def test_a_step_that_is_saved_again_gets_a_new_record(first: Attempt, tmp_path: Path) -> None:
    published(first, 100)
    before = commit.verify(first.stored.checkpoint(100))
    write(first.run.root, 100, loss_history=[7.0])
    published(first)
    after = commit.verify(first.stored.checkpoint(100))
    assert after.checksum != before.checksum
    assert after.time > before.time
    # Killed between the data and the new record:
    commit.write(first.stored.checkpoint(100), before)
    second = Attempt(tmp_path, 2)
    assert second.restored.checkpoint is not None
    assert second.restored.checkpoint.checksum == after.checksum
    assert second.run.checkpoint(100).exists()


def test_a_damaged_one_is_left_as_it_is_and_the_one_before_is_taken(
    first: Attempt, tmp_path: Path
) -> None:
    published(first, 100, 150)
    data = first.stored.checkpoint(150).read_bytes()
    first.stored.checkpoint(150).write_bytes(data[:-500])
    second = Attempt(tmp_path, 2)
    assert second.restored.checkpoint is not None
    assert second.restored.checkpoint.step == 100
    assert second.run.checkpoint(150).stat().st_size == len(data) - 500


def test_a_link_that_was_copied_as_a_file_becomes_a_link(first: Attempt, tmp_path: Path) -> None:
    published(first, 100, 150)
    first.stored.latest_checkpoint.unlink()
    first.stored.latest_checkpoint.write_bytes(first.stored.checkpoint(150).read_bytes())
    second = Attempt(tmp_path, 2)
    for _ in range(3):
        second.publisher.publish()
    assert second.stored.latest_checkpoint.readlink() == Path("checkpoint_step_150.pt")


def test_its_step_guards_a_program_that_begins_anew(first: Attempt, tmp_path: Path) -> None:
    first.log(*range(0, 200, 10))
    published(first, 100)
    second = Attempt(tmp_path, 2)
    rewind(second.run, second.restored, 2)
    assert MetricsLogger(second.run.logs).get_latest_step() == 100
    second.scratch.steps.write_bytes(b"".join(n.to_bytes(8, "little") for n in (0, 1, 2, 1, 2, 1)))
    assert restarted(second.scratch, second.restored)


def rewrite_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"another moment of the training")


def save_in_place(path: Path) -> None:
    torch.save({"step": 1}, path)


def append_in_place(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, b"more")
    os.close(descriptor)


@pytest.mark.parametrize("change", [rewrite_in_place, save_in_place, append_in_place])
@pytest.mark.parametrize("name", ["checkpoint_step_100.pt", "checkpoint_step_7.pt", "best.pt"])
def test_a_program_that_writes_its_files_in_place_writes_nothing_into_storage(
    first: Attempt, tmp_path: Path, change: Callable[[Path], None], name: str
) -> None:
    write(first.run.root, 100)
    (first.run.checkpoints / "checkpoint_step_7.pt").write_bytes(b"a format of its own" * 9)
    torch.save({"mine": 1}, first.run.checkpoints / "best.pt")
    first.publisher.close("ended")
    first.publisher.publish()
    stored = first.stored.checkpoints / name
    data = stored.read_bytes()
    change(first.run.checkpoints / name)
    assert stored.read_bytes() == data, "through what was published"
    second = Attempt(tmp_path, 2)
    change(second.run.checkpoints / name)
    assert stored.read_bytes() == data, "through what was restored"


def test_what_this_library_committed_is_still_a_link(first: Attempt, tmp_path: Path) -> None:
    CheckpointManager(first.run.root).save_checkpoint(1, MODEL, OPTIMIZER, [], {})
    published(first)
    assert first.stored.checkpoint(1).stat().st_nlink == 2
    assert Attempt(tmp_path, 2).run.checkpoint(1).stat().st_nlink == 3


def test_records_of_adoptions_are_those_of_earlier_versions_but_for_one_word(
    first: Attempt,
) -> None:
    published(first, 100)
    record = json.loads(commit_record(first.stored.checkpoint(100)).read_text())
    assert record["adopted"] is True
