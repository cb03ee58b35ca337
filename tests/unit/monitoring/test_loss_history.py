"""The losses of a run: a list for every reader, and no work for those that were saved before."""

import math
import struct
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from monitoring import CheckpointManager
from monitoring.checkpoints import commit
from monitoring.checkpoints.loss_history import LossHistory

MODEL = nn.Linear(1, 1)
OPTIMIZER = torch.optim.SGD(MODEL.parameters())


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointManager:
    return CheckpointManager(tmp_path, async_save=request.param)


def saved(manager: CheckpointManager, losses: Any) -> list[Any]:
    """What comes back of them."""
    manager.save_checkpoint(1, MODEL, OPTIMIZER, losses, {})
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    found = checkpoint["loss_history"]
    assert type(found) is list
    return found


def bits(losses: list[float]) -> list[bytes]:
    return [struct.pack("d", loss) for loss in losses]


def test_floats_come_back_as_the_floats_they_were(manager: CheckpointManager) -> None:
    losses = [0.1, 1 / 3, -0.0, 5e-324, math.inf, -math.inf, math.nan, 1e308]
    found = saved(manager, losses)
    assert {type(loss) for loss in found} == {float}
    assert bits(found) == bits(losses)
    for safe in (True, False):
        by_hand = torch.load(manager.paths.checkpoint(1), weights_only=safe)["loss_history"]
        assert type(by_hand) is list
        assert bits(by_hand) == bits(losses)


def test_many_floats_come_back_in_no_more_time_than_their_bytes_take(
    manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = np.random.default_rng(0).standard_normal(30_000).tolist()
    losses[12_345] = struct.unpack(">d", b"loss_his")[0]
    parsed: list[int] = []
    load = torch.load

    def watched(file: Any, **options: Any) -> Any:
        checkpoint = load(file, **options)
        parsed.append(len(checkpoint["loss_history"].strip("\0")))
        return checkpoint

    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", watched)
        found = saved(manager, losses)
    assert bits(found) == bits(losses)
    assert parsed == [0], "torch parsed none of them, one by one, in Python"
    assert bits(torch.load(manager.paths.checkpoint(1))["loss_history"]) == bits(losses)
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    assert torch.equal(checkpoint["model_state_dict"]["weight"], MODEL.weight)


@pytest.mark.parametrize("count", [9_999, 10_000, 10_001, 20_000])
def test_a_list_that_another_program_wrote_is_parsed_as_it_is(tmp_path: Path, count: int) -> None:
    manager, losses = CheckpointManager(tmp_path), [0.5] * count
    torch.save({"step": 1, "loss_history": losses}, manager.paths.checkpoint(1))
    checkpoint = manager.load_checkpoint(1)
    assert checkpoint is not None
    assert checkpoint["loss_history"] == losses


def test_a_tensor_as_earlier_versions_wrote_it_is_a_list(tmp_path: Path) -> None:
    manager, losses = CheckpointManager(tmp_path), torch.arange(3, dtype=torch.float64)
    torch.save({"step": 1, "loss_history": losses}, manager.paths.checkpoint(1))
    checkpoint = manager.load_checkpoint(1)
    assert checkpoint is not None
    assert checkpoint["loss_history"] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("losses", [[], [1, 2], [1.5, 2], [None, 0.5], [True, 0.5], [{"a": 1.0}]])
def test_other_lists_come_back_as_they_were(manager: CheckpointManager, losses: list[Any]) -> None:
    found = saved(manager, losses)
    assert found == losses
    assert list(map(type, found)) == list(map(type, losses))


def test_a_history_that_is_no_list_comes_back_as_one(manager: CheckpointManager) -> None:
    assert saved(manager, deque([1.5, 2.5], maxlen=2)) == [1.5, 2.5]
    assert saved(manager, deque([2.5, 3.5], maxlen=2)) == [2.5, 3.5]
    assert saved(manager, np.array([1.5, 2.5])) == [1.5, 2.5]
    assert saved(manager, torch.tensor([1.5, 2.5])) == [1.5, 2.5]


def test_a_history_that_grows_shrinks_or_is_written_over_is_saved_as_it_is(
    manager: CheckpointManager,
) -> None:
    losses = [0.5]
    for change in (
        lambda: losses.extend([1.5, 2.5]),
        losses.pop,
        lambda: losses.__setitem__(0, 7.5),
        lambda: losses.append(torch.tensor([1.0, 2.0])),  # type: ignore[arg-type]
        losses.clear,
        lambda: losses.append(3.5),
    ):
        change()
        assert str(saved(manager, losses)) == str(losses)


def test_a_save_under_way_has_the_losses_of_its_step(tmp_path: Path) -> None:
    manager, losses = CheckpointManager(tmp_path, async_save=True, keep_last_n=20), list[float]()
    for step in range(1, 21):
        losses.append(float(step))
        manager.save_checkpoint(step, MODEL, OPTIMIZER, losses, {})
    manager.close()
    for step in range(1, 21):
        checkpoint = manager.load_checkpoint(step)
        assert checkpoint is not None
        assert checkpoint["loss_history"] == [float(n) for n in range(1, step + 1)]


def test_only_new_losses_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    fromiter = np.fromiter

    def watched(losses: list[float], *arguments: Any) -> Any:
        seen.append(len(losses))
        return fromiter(losses, *arguments)

    monkeypatch.setattr(np, "fromiter", watched)
    history, losses = LossHistory(), [0.5] * 1000
    for _ in range(3):
        history.pack(losses)
        losses += [1.5] * 10
    assert seen == [1000, 10, 10]


def test_a_checkpoint_with_a_list_in_its_file_loads_as_before(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    path = manager.paths.checkpoint(1)
    torch.save({"step": 1, "loss_history": [1.5, 2]}, path)
    checksum = commit.checksum(path, "crc32")
    commit.write(path, commit.CommitRecord(1, path.stat().st_size, checksum, 0, 1.0))
    assert manager.load_latest_checkpoint() == {"step": 1, "loss_history": [1.5, 2]}
