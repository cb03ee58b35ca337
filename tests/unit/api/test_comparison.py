"""That no difference between two runs goes unnoticed, and nothing else is taken for one."""

from __future__ import annotations

import json
import os
import pickle
import random
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from api.drill.comparison import compare
from monitoring import CheckpointManager, MetricsLogger
from monitoring.checkpoints.torch_file import NoTorchFileError, TorchFile
from monitoring.paths import RunPaths

LAST = 20


def run_of(root: Path, *, seconds: float = 1.0, change: Any = None) -> RunPaths:
    """A finished run: the same one each time, but for the clock, the speed and Python's dice."""
    torch.manual_seed(7)
    random.seed(seconds)
    model = torch.nn.Sequential(torch.nn.Linear(600, 500), torch.nn.Linear(500, 2).bfloat16())
    optimizer = torch.optim.AdamW(model[0].parameters())
    model[0](torch.ones(600)).sum().backward()
    optimizer.step()
    if change is not None:
        change(model)
    with (
        closing(MetricsLogger(root / "logs", 5)) as metrics,
        closing(CheckpointManager(root, save_interval=10)) as checkpoints,
    ):
        losses = [1 / (step + 3) for step in range(LAST + 1)]
        for step in range(0, LAST + 1, 5):
            metrics.log_metrics(step, {"loss": losses[step], "tokens_per_sec": 7 / seconds})
        for step in (10, LAST):
            checkpoints.save_checkpoint(
                step, model, optimizer, losses[: step + 1], {}, extra={"seconds": seconds}
            )
    return RunPaths(root)


@pytest.fixture
def one(tmp_path: Path) -> RunPaths:
    return run_of(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> RunPaths:
    return run_of(tmp_path / "other", seconds=2.0)


def flip(name: str, index: int) -> Any:
    """Changes the lowest bit of one number of a weight."""

    def change(model: torch.nn.Module) -> None:
        numbers = dict(model.named_parameters())[name].data.flatten().view(torch.uint8)
        numbers[index] ^= 1

    return change


def test_clocks_speeds_and_unseeded_dice_make_no_difference(one: RunPaths, other: RunPaths) -> None:
    found = compare(one, other)
    assert found.identical, (found.curve, found.weights)
    assert (found.rows, found.step) == (5, LAST)
    assert found.tensors == 4 + 2 * 3  # AdamW keeps a step and two moments of each
    assert found.ignored == ("timestamp", "tokens_per_sec")
    assert found.metrics == ("loss",)
    assert one.checkpoint(LAST).read_bytes() != other.checkpoint(LAST).read_bytes()


@pytest.mark.parametrize(("name", "index"), [("0.weight", 0), ("0.weight", -4), ("1.bias", 0)])
def test_a_single_flipped_bit_of_a_weight_is_found_and_named(
    one: RunPaths, tmp_path: Path, name: str, index: int
) -> None:
    """Also behind the first MiB, and in numbers of two bytes."""
    found = compare(one, run_of(tmp_path / "flipped", change=flip(name, index)))
    assert found.weights == [f"model_state_dict.{name} differs in 1 bit"]
    assert found.curve == []
    assert not found.identical


def test_a_single_changed_digit_of_a_metric_is_found_and_named(
    one: RunPaths, other: RunPaths
) -> None:
    text = other.metrics.read_text()
    loss = json.loads(text.splitlines()[2], parse_float=str)["loss"]
    changed = loss[:-1] + ("1" if loss[-1] != "1" else "2")
    other.metrics.write_text(text.replace(loss, changed))
    found = compare(one, other)
    assert found.curve == [f"step 10: loss is {loss} and {changed}"]
    assert not found.identical


@pytest.mark.parametrize("missing", range(5))
def test_a_missing_row_is_found_from_either_side(
    one: RunPaths, other: RunPaths, missing: int
) -> None:
    lines = other.metrics.read_text().splitlines(keepends=True)
    del lines[missing]
    other.metrics.write_text("".join(lines))
    for found in (compare(one, other), compare(other, one)):
        assert len(found.curve) == 1
        assert not found.identical


def test_a_row_that_is_there_twice_or_torn_is_found(one: RunPaths, other: RunPaths) -> None:
    text = other.metrics.read_text()
    for changed in (text + text.splitlines(keepends=True)[-1], text[:-9], text + "nonsense\n"):
        other.metrics.write_text(changed)
        assert not compare(one, other).identical


def test_the_loss_of_a_step_that_was_not_logged_counts(one: RunPaths, other: RunPaths) -> None:
    content = torch.load(other.checkpoint(LAST), weights_only=True)
    content["loss_history"][13] += 1e-9
    torch.save(content, other.checkpoint(LAST))
    assert compare(one, other).weights == ["the losses of all steps (loss_history) differ"]


def test_another_shape_or_a_weight_too_many_is_found(one: RunPaths, tmp_path: Path) -> None:
    def reshape(model: torch.nn.Module) -> None:
        model[1].weight.data = model[1].weight.data.reshape(500, 2)  # type: ignore[operator]

    def add(model: torch.nn.Module) -> None:
        model.register_buffer("more", torch.ones(1))

    (said,) = compare(one, run_of(tmp_path / "shape", change=reshape)).weights
    assert "[2, 500]" in said
    assert "[500, 2]" in said
    (said,) = compare(one, run_of(tmp_path / "more", change=add)).weights
    assert said == "model_state_dict.more is in only one of them"


def test_what_cannot_be_compared_is_not_identical(
    one: RunPaths, other: RunPaths, tmp_path: Path
) -> None:
    empty = RunPaths(tmp_path / "empty")
    assert not compare(empty, empty).identical
    other.checkpoint(LAST).write_bytes(other.checkpoint(LAST).read_bytes()[:-5000])
    found = compare(one, other)
    assert not found.identical
    assert "checkpoint_step_20.pt" in found.weights[0]


def test_every_kind_of_number_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    numbers = {
        str(kind): torch.arange(6, dtype=torch.float32).to(kind).reshape(2, 3)
        for kind in (torch.float64, torch.bfloat16, torch.int8, torch.bool, torch.uint16)
    }
    content = {"numbers": numbers, "parameter": torch.nn.Parameter(torch.ones(2)), "none": None}
    torch.save(content, tmp_path / "file.pt")
    with TorchFile(tmp_path / "file.pt") as file:
        tensors = file.tensors()
        assert tensors.keys() == {"parameter", *(f"numbers.{kind}" for kind in numbers)}
        for name, tensor in numbers.items():
            found = tensors[f"numbers.{name}"]
            assert (found.shape, found.stride) == ((2, 3), (3, 1))
            raw = bytes(tensor.flatten().view(torch.uint8).tolist())
            assert b"".join(file.blocks(found)) == raw


def test_a_checkpoint_from_elsewhere_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "done"),)

    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weights": Evil()}))
    with TorchFile(tmp_path / "evil.pt") as file:
        assert file.tensors() == {}
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_file_that_is_no_checkpoint_is_one_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NoTorchFileError, match=r"file\.pt"):
        TorchFile(path)
