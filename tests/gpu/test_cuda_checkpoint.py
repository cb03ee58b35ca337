"""On a CUDA device: copies beside the training are exact, and so is a resume.

`pytest -m gpu` runs these. Without a device they fail: who asks for them wants to know.
"""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monitoring import CheckpointManager, restore_rng_state
from monitoring.checkpoints.copies.cuda_copy import CudaCopy
from monitoring.paths import RunPaths

pytestmark = pytest.mark.gpu
STEPS, INTERVAL = 60, 10


@pytest.fixture(autouse=True)
def _device() -> None:
    assert torch.cuda.is_available(), "torch finds no CUDA device here"


@pytest.fixture
def trained() -> Iterator[tuple[nn.Module, torch.optim.Optimizer]]:
    """A model with running statistics, which change in the forward pass, and its optimizer."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(1024, 1024), nn.BatchNorm1d(1024)) for _ in range(24)]
    model = nn.Sequential(*layers).cuda()
    yield model, torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.cuda.empty_cache()


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    loss = (model(torch.randn(256, 1024, device="cuda")) - 1).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def on_cpu(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return tree.detach().cpu().clone()
    if isinstance(tree, dict):
        return {key: on_cpu(value) for key, value in tree.items()}
    return [on_cpu(value) for value in tree] if isinstance(tree, list | tuple) else tree


def same(a: Any, b: Any) -> bool:
    """Equal in every bit, down to the last tensor."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_a_checkpoint_is_of_its_own_step_though_training_goes_on(
    tmp_path: Path, trained: tuple[nn.Module, torch.optim.Optimizer]
) -> None:
    model, optimizer = trained
    manager = CheckpointManager(tmp_path, async_save=True, keep_last_n=5)
    step(model, optimizer)
    for number in range(1, 6):
        torch.cuda.synchronize()
        expected = on_cpu({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        manager.save_checkpoint(number, model, optimizer, [], {})
        for _ in range(5):  # while the copy runs
            step(model, optimizer)
        checkpoint = manager.load_checkpoint(number)
        assert checkpoint is not None
        assert same(checkpoint["model_state_dict"], expected["model"])
        assert same(checkpoint["optimizer_state_dict"]["state"], expected["optimizer"]["state"])
    manager.close()


def test_the_generator_of_the_device_is_part_of_a_checkpoint(
    tmp_path: Path, trained: tuple[nn.Module, torch.optim.Optimizer]
) -> None:
    model, optimizer = trained
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(1, model, optimizer, [], {})
    drawn = torch.rand(100, device="cuda")
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    restore_rng_state(checkpoint["rng_state"])
    assert torch.equal(torch.rand(100, device="cuda"), drawn)


def test_memory_that_cannot_be_pinned_does_no_harm_to_the_next_kernel() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    block = torch.zeros(1 << 20, dtype=torch.uint8)
    first = CudaCopy(block, device)
    with pytest.raises(RuntimeError):  # it is pinned already
        CudaCopy(block, device)
    assert torch.ones(10, device=device).sum().item() == 10
    first.close()
    assert not block.is_pinned()


def test_a_manager_that_nobody_knows_any_more_leaves_no_memory_pinned(
    tmp_path: Path, trained: tuple[nn.Module, torch.optim.Optimizer]
) -> None:
    model, optimizer = trained
    manager = CheckpointManager(tmp_path, async_save=True)
    manager.save_checkpoint(1, model, optimizer, [], {})
    manager.wait()
    buffer = max(manager._snapshot._buffers, key=lambda tensor: tensor.nbytes)
    assert buffer.is_pinned()
    del manager
    gc.collect()
    assert not buffer.is_pinned()


def start(config: Path, run: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "SPECTRAIN_DEVICE": "cuda", "SPECTRAIN_DETERMINISTIC": "1"}
    command = [sys.executable, "-m", "spectral_gpt", "--config", str(config), "--run-dir", str(run)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in RunPaths(run).metrics.read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


@pytest.mark.parametrize("kind", ["wave", "standard"])
def test_a_killed_run_ends_with_the_bits_of_one_that_never_was(tmp_path: Path, kind: str) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} squared is {n * n}.\n" for n in range(2000)))
    config = tmp_path / "config.json"
    settings = {
        "model": {"type": kind, "d_model": 64, "num_layers": 2, "block_size": 64, "dropout": 0.1},
        "dataset": {"name": "path", "location": str(text)},
        "steps": STEPS,
        "batch_size": 4,
        "log_every": 1,
        "eval_every": INTERVAL,
        "eval_batches": 1,
        "plot_every": STEPS * 10,
        "sample_tokens": 0,
        "checkpoint": {"every_steps": INTERVAL},
    }
    config.write_text(json.dumps(settings))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert start(config, whole).wait(120) == 0

    victim = start(config, parts)
    deadline = time.monotonic() + 120
    while not RunPaths(parts).checkpoint(2 * INTERVAL).exists() and victim.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    victim.kill()
    victim.wait()
    assert start(config, parts).wait(120) == 0

    assert losses(whole) == losses(parts)
    first, second = (CheckpointManager(run).load_latest_checkpoint() for run in (whole, parts))
    assert first is not None
    assert second is not None
    for part in ("model_state_dict", "optimizer_state_dict", "loss_history"):
        assert same(first[part], second[part]), part
