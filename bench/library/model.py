"""Measures the step time of the wave variant against the standard one, in turns in one run."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from spectral_gpt.config import LossConfig, ModelConfig, OptimizerConfig
from spectral_gpt.device import autocast, prepare_device
from spectral_gpt.losses import build_loss
from spectral_gpt.model import GPT
from spectral_gpt.optimizer import build_optimizer

LIMIT = 1.25
VARIANTS = [
    ("standard", "adamw", "ce"),
    ("wave", "adamw", "ce"),
    ("wave", "rgd", "ce"),
    ("wave", "rgd", "qfe"),
]


def main(argv: Sequence[str]) -> int:
    """Print a table and one JSON line; return 0 if every ratio is within the limit, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench model", description=__doc__)
    parser.add_argument("--steps", type=int, default=12, help="steps per variant")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--num-layers", type=int, default=4)
    parser.add_argument("--num-heads", type=int, default=8)
    parser.add_argument("--block-size", type=int, default=256)
    parser.add_argument("--vocab-size", type=int, default=256)
    options = parser.parse_args(argv)
    device = prepare_device()
    model = ModelConfig(
        d_model=options.d_model,
        num_layers=options.num_layers,
        num_heads=options.num_heads,
        block_size=options.block_size,
    )
    steps = {
        variant: build_step(*variant, model, options.vocab_size, options.batch_size, device)
        for variant in VARIANTS
    }
    seconds: dict[tuple[str, str, str], list[float]] = {variant: [] for variant in VARIANTS}
    for turn in range(-2, options.steps):  # two turns to warm up
        for variant, step in steps.items():
            taken = timed(step, device)
            if turn >= 0:
                seconds[variant].append(taken)

    median = {variant: statistics.median(taken) for variant, taken in seconds.items()}
    ratios = {" ".join(v): round(median[v] / median[VARIANTS[0]], 3) for v in VARIANTS}
    for variant in VARIANTS:
        name, milliseconds = " ".join(variant), 1e3 * median[variant]
        print(f"{name:<20} {milliseconds:9.2f} ms per step, ratio {ratios[name]:.3f}")
    threads = torch.get_num_threads() if device.type == "cpu" else None
    print(json.dumps(vars(options) | {"device": str(device), "threads": threads} | ratios))
    return int(max(ratios.values()) > LIMIT)


def build_step(
    kind: str,
    optimizer: str,
    loss: str,
    model_config: ModelConfig,
    vocab_size: int,
    batch_size: int,
    device: torch.device,
) -> Callable[[], None]:
    """One training step of a variant on random tokens."""
    torch.manual_seed(0)
    config = model_config.model_copy(update={"type": kind})
    model = GPT(config, vocab_size).to(device)
    update = build_optimizer(model, OptimizerConfig(name=optimizer))  # type: ignore[arg-type]
    criterion = build_loss(LossConfig(name=loss), vocab_size, 0).to(device)  # type: ignore[arg-type]
    tokens = torch.randint(vocab_size, (batch_size, config.block_size + 1), device=device)

    def step() -> None:
        update.zero_grad(set_to_none=True)
        with autocast(device):
            total = criterion(model(tokens[:, :-1]), tokens[:, 1:]).total
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        update.step()

    return step


def timed(step: Callable[[], None], device: torch.device) -> float:
    """The duration of a step in seconds, including the work on the device."""
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
