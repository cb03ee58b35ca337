"""An asynchronous save copies large weights beside the training, and they are those of its step."""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monitoring import CheckpointManager
from monitoring.checkpoints.copies import cpu_copy

WIDTH = 512  # a weight of 1 MiB


class Training:
    """A model with two weights worth a copy of their own, and its optimizer."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.step()

    def passes(self) -> None:
        """Forward and backward."""
        self.optimizer.zero_grad()
        (self.model(torch.randn(8, WIDTH)) - 1).square().mean().backward()

    def step(self) -> None:
        self.passes()
        self.optimizer.step()

    def save(self, manager: CheckpointManager, step: int, **more: Any) -> str | None:
        return manager.save_checkpoint(step, self.model, self.optimizer, [], {}, **more)

    def state(self) -> list[torch.Tensor]:
        """Copies of all tensors of a checkpoint."""
        moments = [self.optimizer.state[weight] for weight in self.model.parameters()]
        kept = [moment[name] for moment in moments for name in ("exp_avg", "exp_avg_sq")]
        return [tensor.detach().clone() for tensor in (*self.model.parameters(), *kept)]


class Gate:
    """Lets copies begin when it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.begun = threading.Event()
        self.copied = threading.Event()

    def around(self, copy: Callable[[Any], None]) -> Callable[[Any], None]:
        def run(pairs: Any) -> None:
            self.begun.set()
            if not self.opened.wait(30):
                raise TimeoutError("nobody opened the gate")
            copy(pairs)
            self.copied.set()

        return run


@pytest.fixture
def training() -> Training:
    return Training()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(cpu_copy, "_copy", gate.around(cpu_copy._copy))
    yield gate
    gate.opened.set()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[CheckpointManager]:
    manager = CheckpointManager(tmp_path, async_save=True, keep_last_n=100)
    yield manager
    manager.close()


def holds(manager: CheckpointManager, step: int, expected: list[torch.Tensor]) -> bool:
    """Whether the checkpoint of a step has these weights and moments, in all bits."""
    checkpoint = manager.load_checkpoint(step)
    assert checkpoint is not None
    moments = checkpoint["optimizer_state_dict"]["state"].values()
    kept = [moment[name] for moment in moments for name in ("exp_avg", "exp_avg_sq")]
    found = [*checkpoint["model_state_dict"].values(), *kept]
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


def test_passes_go_on_beside_the_copy_and_the_step_waits_for_it(
    training: Training, manager: CheckpointManager, gate: Gate
) -> None:
    expected = training.state()
    training.save(manager, 1)
    assert gate.begun.wait(30)
    training.passes()
    assert not gate.copied.is_set()  # nothing waited for it so far
    threading.Timer(0.2, gate.opened.set).start()
    training.optimizer.step()
    assert gate.copied.is_set()
    assert holds(manager, 1, expected)


def test_the_step_of_another_optimizer_waits_too(
    training: Training, manager: CheckpointManager, gate: Gate
) -> None:
    expected = training.state()
    training.passes()
    training.save(manager, 1)
    threading.Timer(0.2, gate.opened.set).start()
    torch.optim.SGD(training.model.parameters(), lr=0.1).step()
    assert holds(manager, 1, expected)


def test_many_saves_between_steps_are_each_of_their_own_step(
    training: Training, manager: CheckpointManager
) -> None:
    expected = []
    for step in range(20):
        expected.append(training.state())
        training.save(manager, step)
        training.step()
    assert all(holds(manager, step, state) for step, state in enumerate(expected))


def test_a_change_by_hand_voids_the_copy_and_later_saves_hold_the_loop(
    training: Training, manager: CheckpointManager, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    training.save(manager, 1)
    with torch.no_grad():
        training.model[0].weight.mul_(0.5)
    gate.opened.set()
    with caplog.at_level(logging.WARNING):
        assert not manager.wait()
    assert "something other than an optimizer step changed a weight" in caplog.text
    assert manager.load_checkpoint(1) is None
    gate.begun.clear()

    gate.opened.clear()
    expected = training.state()
    training.save(manager, 2)
    assert not gate.begun.is_set()  # nothing is left to be copied
    with torch.no_grad():
        training.model[0].weight.mul_(0.5)
    assert holds(manager, 2, expected)


def test_a_change_by_hand_is_noticed_though_a_step_follows(
    training: Training, manager: CheckpointManager, gate: Gate
) -> None:
    training.passes()
    training.save(manager, 1)
    with torch.no_grad():
        training.model[0].weight.clamp_(-0.01, 0.01)
    gate.opened.set()
    training.optimizer.step()
    manager.wait()
    assert manager.load_checkpoint(1) is None


def test_a_copy_that_failed_commits_nothing(
    training: Training, manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(cpu_copy, "_copy", fail)
    training.save(manager, 1)
    with pytest.raises(MemoryError):
        manager.wait()
    assert manager.load_checkpoint(1) is None


@pytest.mark.usefixtures("gate")
def test_weights_that_no_optimizer_steps_are_copied_at_once(
    training: Training, manager: CheckpointManager
) -> None:
    teacher = nn.Linear(WIDTH, WIDTH)
    both = nn.ModuleList([nn.Linear(2, 2), teacher])
    before = teacher.weight.detach().clone()
    manager.save_checkpoint(1, both, torch.optim.SGD(both[0].parameters()), [], {})
    with torch.no_grad():
        teacher.weight.mul_(0.99)
    checkpoint = manager.load_checkpoint(1)
    assert checkpoint is not None
    assert torch.equal(checkpoint["model_state_dict"]["1.weight"], before)


@pytest.mark.usefixtures("gate")
def test_an_optimizer_of_another_kind_has_its_weights_copied_at_once(
    training: Training, manager: CheckpointManager
) -> None:
    class Handmade:
        def state_dict(self) -> dict[str, Any]:
            return {}

    before = training.state()[0]
    manager.save_checkpoint(1, training.model, Handmade(), [], {})
    with torch.no_grad():
        training.model[0].weight.sub_(1)
    checkpoint = manager.load_checkpoint(1)
    assert checkpoint is not None
    assert torch.equal(checkpoint["model_state_dict"]["0.weight"], before)


def test_weights_in_any_order_of_memory_come_back_the_same(manager: CheckpointManager) -> None:
    layers = [nn.Conv2d(64, 128, 3).to(memory_format=torch.channels_last), nn.Linear(300, 300)]  # type: ignore[call-overload]
    layers[1].weight.data = torch.randn(600, 300)[::2]  # every other row of a larger one
    model = nn.Sequential(*layers)
    manager.save_checkpoint(1, model, torch.optim.SGD(model.parameters()), [], {})
    checkpoint = manager.load_checkpoint(1)
    assert checkpoint is not None
    for name, weight in model.state_dict().items():
        assert torch.equal(checkpoint["model_state_dict"][name], weight), name
