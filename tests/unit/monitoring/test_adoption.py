"""Checkpoints that another program wrote are used and adopted, and never taken for damaged ones."""

import argparse
import fractions
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from monitoring import CheckpointManager
from monitoring.checkpoints import commit
from monitoring.paths import RunPaths, commit_record

MODEL = nn.Linear(10, 5)
OPTIMIZER = torch.optim.Adam(MODEL.parameters())


def write(root: Path, step: int, **more: Any) -> Path:
    """Save a checkpoint as the specification's first implementation does, the link included."""
    path = RunPaths(root).checkpoint(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "step": step,
        "model_state_dict": MODEL.state_dict(),
        "optimizer_state_dict": OPTIMIZER.state_dict(),
        "loss_history": [2.0 - 0.01 * n for n in range(step)],
        "config": {"training": {"lr": 0.001}},
        "timestamp": "2025-12-09T14:18:46.539043",
        "git_hash": "708b506",
    }
    torch.save(state | more, path)
    link = RunPaths(root).latest_checkpoint
    link.unlink(missing_ok=True)
    link.symlink_to(path.name)
    return path


def names(root: Path) -> set[str]:
    return {path.name for path in RunPaths(root).checkpoints.iterdir()}


def age(path: Path, seconds: float = 7200.0) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def loaded_step(manager: CheckpointManager) -> int | None:
    checkpoint = manager.load_latest_checkpoint()
    return None if checkpoint is None else checkpoint["step"]


def test_a_run_of_the_first_implementation_goes_on(tmp_path: Path) -> None:
    for step in (100, 150):
        write(tmp_path, step)
    before = names(tmp_path)
    manager = CheckpointManager(tmp_path)
    assert [found["step"] for found in manager.list_checkpoints()] == [100, 150]
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint["step"] == 150
    assert len(checkpoint["loss_history"]) == 150
    MODEL.load_state_dict(checkpoint["model_state_dict"])
    OPTIMIZER.load_state_dict(checkpoint["optimizer_state_dict"])
    assert names(tmp_path) == before | {"checkpoint_step_150.pt.json"}
    record = commit.verify(RunPaths(tmp_path).checkpoint(150))
    assert (record.step, record.adopted) == (150, True)
    by_step = manager.load_checkpoint(100)
    assert by_step is not None
    assert by_step["step"] == 100
    assert loaded_step(CheckpointManager(tmp_path)) == 150, "the older one was adopted as older"


def text_link(link: Path) -> None:
    target = link.readlink()
    link.unlink()
    link.write_text(str(target))


def copied_link(link: Path) -> None:
    target = link.resolve()
    link.unlink()
    shutil.copy2(target, link)


@pytest.mark.parametrize("change", [Path.exists, text_link, copied_link, Path.unlink])
def test_the_newest_is_known_whatever_became_of_link_and_times(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    for step in (90, 100, 1000):
        write(tmp_path, step)
    age(RunPaths(tmp_path).checkpoint(1000))  # as a copy may leave it
    change(RunPaths(tmp_path).latest_checkpoint)
    manager = CheckpointManager(tmp_path)
    assert loaded_step(manager) == 1000
    assert manager.save_checkpoint(1001, MODEL, OPTIMIZER, [], {})
    assert loaded_step(manager) == 1001
    assert RunPaths(tmp_path).latest_checkpoint.readlink() == Path("checkpoint_step_1001.pt")


def test_the_link_decides_before_the_step(tmp_path: Path) -> None:
    for step in (900, 5):  # the run was started again
        write(tmp_path, step)
    assert loaded_step(CheckpointManager(tmp_path)) == 5


def test_a_run_that_this_library_went_on_with_never_falls_back_to_an_older_file(
    tmp_path: Path,
) -> None:
    for step in (800, 900):
        write(tmp_path, step)
    manager = CheckpointManager(tmp_path, keep_last_n=2)
    assert loaded_step(manager) == 900
    for step in (10, 20):  # started again from an early step
        manager.save_checkpoint(step, MODEL, OPTIMIZER, [], {})
    os.utime(RunPaths(tmp_path).checkpoint(800))  # copied later than all others
    assert loaded_step(CheckpointManager(tmp_path)) == 20
    assert [found["step"] for found in manager.list_checkpoints()] == [10, 20, 800], (
        "what was never used is nobody's to remove"
    )


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.find(MODEL.weight.detach().numpy().tobytes())
    data[place + 5] ^= 0x10
    path.write_bytes(data)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_checkpoint(path: Path) -> None:
    torch.save([1, 2], path)


@pytest.mark.parametrize("damage", [torn, flipped, zeros, empty, no_checkpoint])
def test_only_a_file_that_cannot_be_read_is_set_aside_and_not_while_it_may_be_written(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 1)
    path = write(tmp_path, 2)
    damage(path)
    before = names(tmp_path)
    assert loaded_step(CheckpointManager(tmp_path)) == 1
    assert names(tmp_path) == before | {"checkpoint_step_1.pt.json"}
    [warning] = caplog.messages
    assert "checkpoint_step_2.pt" in warning
    assert "may still be being written" in warning

    age(path)
    manager = CheckpointManager(tmp_path)
    assert manager.load_checkpoint(2) is None
    assert "checkpoint_step_2.pt.corrupt" in names(tmp_path)
    assert not path.exists()


def test_a_reader_beside_a_writer_leaves_what_is_half_written(tmp_path: Path) -> None:
    write(tmp_path, 1)
    path = write(tmp_path, 2)
    data = path.read_bytes()
    manager = CheckpointManager(tmp_path)
    with path.open("wb") as file:
        for start in range(0, len(data), len(data) // 7):
            assert loaded_step(manager) == 1
            assert not commit_record(path).exists()
            file.write(data[start : start + len(data) // 7])
            file.flush()
    assert loaded_step(manager) == 1, "it was adopted, and the link was set to it"
    assert manager.load_checkpoint(2) is not None
    assert commit.verify(path).adopted


def test_a_file_that_its_program_writes_anew_is_adopted_anew(tmp_path: Path) -> None:
    write(tmp_path, 1)
    path = write(tmp_path, 2)
    manager = CheckpointManager(tmp_path)
    assert loaded_step(manager) == 2
    first = commit.read(path)
    write(tmp_path, 2, loss_history=[7.0])
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint["loss_history"] == [7.0]
    assert commit.verify(path).checksum != first.checksum
    assert not [name for name in names(tmp_path) if "corrupt" in name]


def test_values_of_other_programs_load_safely(tmp_path: Path) -> None:
    config = argparse.Namespace(lr=0.1, path=Path("data"))
    write(tmp_path, 1, loss_history=[np.float64(1.5), np.float32(0.5)], config=config)
    write(tmp_path, 2, extra={"mean": np.float64(2.5), "array": np.arange(3)})
    manager = CheckpointManager(tmp_path)
    first, second = manager.load_checkpoint(1), manager.load_latest_checkpoint()
    assert first is not None
    assert second is not None
    assert first["loss_history"] == [1.5, 0.5]
    assert first["config"] == config
    assert second["extra"]["array"].tolist() == [0, 1, 2]


def test_the_names_of_numpy_1_are_known() -> None:
    from monitoring.checkpoints.loading import _DATA

    # In the format without an archive, whose places a shorter name would shift.
    legacy = io.BytesIO()
    torch.save({"x": np.float64(2.5), "y": np.arange(3.0)}, legacy,
               _use_new_zipfile_serialization=False)  # fmt: skip
    data = legacy.getvalue().replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")
    assert b"numpy.core" in data
    with torch.serialization.safe_globals(_DATA):
        found = torch.load(io.BytesIO(data), weights_only=True)
    assert (found["x"], found["y"].tolist()) == (2.5, [0.0, 1.0, 2.0])


def test_classes_that_a_safe_load_refuses_are_for_a_person_to_decide(tmp_path: Path) -> None:
    write(tmp_path, 1)
    path = write(tmp_path, 2, extra=fractions.Fraction(1, 3))
    before = names(tmp_path)
    with pytest.raises(Exception, match=r"(?s)allowed_types=.*fractions\.Fraction"):
        CheckpointManager(tmp_path).load_latest_checkpoint()
    age(path)
    with pytest.raises(Exception, match="as it was written"):
        CheckpointManager(tmp_path).load_checkpoint(2)
    assert names(tmp_path) == before
    trusting = CheckpointManager(tmp_path, allowed_types=[fractions.Fraction])
    checkpoint = trusting.load_latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint["extra"] == fractions.Fraction(1, 3)


def test_files_of_torchs_older_format_are_checkpoints(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 1)
    path = RunPaths(tmp_path).checkpoint(2)
    torch.save({"step": 2, "model_state_dict": MODEL.state_dict()}, path,
               _use_new_zipfile_serialization=False)  # fmt: skip
    RunPaths(tmp_path).latest_checkpoint.unlink()
    manager = CheckpointManager(tmp_path)
    assert [found["step"] for found in manager.list_checkpoints()] == [1, 2]
    assert loaded_step(manager) == 2
    assert commit.verify(path).adopted
    assert caplog.messages == []
    commit_record(path).unlink()
    torn(path)
    age(path)
    assert loaded_step(manager) == 1
    assert path.exists(), "what only torch can judge is left in place"


def test_a_kill_while_a_step_is_saved_over_another_programs_file_leaves_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, 7)
    age(path)
    draft = tmp_path / "draft"
    torch.save({"step": 7, "new": True}, draft)
    size, checksum = draft.stat().st_size, commit.checksum(draft, "crc32")

    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if self == draft:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            commit.publish(draft, path, commit.CommitRecord(7, size, checksum, 0, 1.0))
    assert path.with_name(path.name + ".json.next").exists()
    checkpoint = CheckpointManager(tmp_path).load_latest_checkpoint()
    assert checkpoint is not None
    assert "new" not in checkpoint


def test_a_directory_in_which_nothing_can_be_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 1)

    def refuse(*_: Any) -> None:
        raise OSError("Read-only file system")

    monkeypatch.setattr(commit, "write", refuse)
    manager = CheckpointManager(tmp_path)
    assert loaded_step(manager) == 1
    assert loaded_step(manager) == 1
    assert caplog.messages == []
    assert names(tmp_path) == {"checkpoint_step_1.pt", "checkpoint_latest.pt"}


def test_an_adopted_checkpoint_is_retired_like_any_other_and_the_best_one_is_kept(
    tmp_path: Path,
) -> None:
    for step in (1, 2):
        write(tmp_path, step)
    manager = CheckpointManager(tmp_path, keep_last_n=1)
    for step in (1, 2):
        assert manager.load_checkpoint(step) is not None
    manager.mark_best(1)
    manager.save_checkpoint(3, MODEL, OPTIMIZER, [], {})
    assert [found["step"] for found in manager.list_checkpoints()] == [1, 3]


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = RunPaths(tmp_path).checkpoint(1)
    path.parent.mkdir()
    path.write_bytes(b"data")
    commit.write(path, commit.CommitRecord(1, 4, commit.checksum(path, "crc32"), 0, 1.0))
    assert "adopted" not in json.loads(commit_record(path).read_text())
    assert not commit.verify(path).adopted
