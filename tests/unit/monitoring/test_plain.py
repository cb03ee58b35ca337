"""State of any kind is saved in a form that a safe load takes, or refused."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from monitoring import CheckpointManager


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointManager:
    return CheckpointManager(tmp_path, async_save=request.param)


def save(manager: CheckpointManager, value: Any) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    manager.save_checkpoint(1, model, optimizer, [], {}, extra={"value": value})


class Labelled(torch.Tensor):
    """A tensor with a name for what it is, and nothing else of its own."""


def record_array() -> Any:
    return np.array([(1.5, 2)], dtype=[("x", "f4"), ("n", "i8")]).view(np.recarray)


def memory_map() -> Any:
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, dtype="f4", shape=3)
        mapped[:] = 7
        return mapped


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(5.0).as_subclass(Labelled),
        nn.Parameter(torch.ones(3)),
        np.ones((2, 2)).view(np.matrix),
        record_array(),
        memory_map(),
        np.array(["2026-01-01"], "M8[D]"),
        np.array(["text"]),
        np.arange(3, dtype=np.longdouble),
        np.arange(6).reshape(2, 3).T,
    ],
    ids=lambda value: f"{type(value).__name__}-{value.dtype}",
)
def test_arrays_and_tensors_of_other_classes_come_back_as_plain_ones(
    manager: CheckpointManager, value: Any
) -> None:
    save(manager, value)
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    loaded = checkpoint["extra"]["value"]
    assert type(loaded) is (torch.Tensor if isinstance(value, torch.Tensor) else np.ndarray)
    assert loaded.dtype == value.dtype
    assert loaded.tolist() == value.tolist()


class Elsewhere(torch.Tensor):
    """A tensor whose numbers only its own operations know, as a distributed one."""

    @staticmethod
    def __new__(cls) -> "Elsewhere":
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(cls, (3,))  # type: ignore[attr-defined]
        return made

    @classmethod
    def __torch_dispatch__(cls, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    "value",
    [
        np.array([None, "object"]),
        np.zeros(2, dtype=[("x", "O")]),
        np.array(["variable"], dtype=np.dtypes.StringDType()),
        np.ma.array([1.0, 2.0], mask=[True, False]),
        np.longdouble(1) / 3,
        np.zeros(2, dtype=[("r", np.dtype((np.record, [("x", "f4")])))]),
        np.zeros(2, "V0"),
        Elsewhere(),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.dtype}",
)
def test_arrays_and_tensors_that_no_safe_load_takes_are_refused_when_saving(
    manager: CheckpointManager, value: Any
) -> None:
    with pytest.raises(TypeError, match=r"state\['extra'\]\['value'\] is a .*allowed_types"):
        save(manager, value)
    assert manager.list_checkpoints() == []
