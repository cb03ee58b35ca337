"""Measures checkpoints of a CUDA state: the time that the loop is held, and an exact copy."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from bench.library.checkpoint import adamw_state, state_bytes
from bench.report import Report, options, timed
from monitoring import CheckpointManager


def main(argv: Sequence[str]) -> int:
    """Measure each size; return 1 if a limit is exceeded, 2 without a CUDA device."""
    parser = options("gpu", rounds=5)
    parser.add_argument("--gb", type=float, nargs="+", default=[1.5, 12.0], help="state sizes")
    parser.add_argument(
        "--dir", default=None, help="directory to write to (default: a temporary one)"
    )
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("python -m bench gpu needs a CUDA device, and torch sees none here", file=sys.stderr)
        return 2
    device = torch.cuda.get_device_name()
    report = Report("gpu", {"gb": arguments.gb, "rounds": arguments.rounds, "device": device})
    for gigabytes in arguments.gb:
        with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
            _measure(report, Path(directory), gigabytes, arguments.rounds)
        torch.cuda.empty_cache()
    return report.show(keep=arguments.keep)


def _measure(report: Report, directory: Path, gigabytes: float, rounds: int) -> None:
    model, optimizer = adamw_state(gigabytes * 1000, device="cuda")
    size = state_bytes(model, optimizer)
    name = f"{gigabytes:g} GB"
    manager = CheckpointManager(directory, keep_last_n=1, async_save=True)
    batch = torch.randn(4096, 1024, device="cuda")

    def step() -> None:
        loss = model(batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    usual = report.add(f"{name}: a training step", "ms", [_synchronised(step) for _ in range(10)])
    held, longer, total = [], [], []
    for number in range(1, rounds + 2):
        torch.cuda.synchronize()
        expected = [parameter.detach().clone() for parameter in _some(model)]
        torch.cuda.synchronize()
        start = perf_counter()
        manager.save_checkpoint(number, model, optimizer, [0.5] * 15_000, {})
        held.append((perf_counter() - start) * 1e3)
        # The next forward and backward pass overlap with the copy; the step waits for it.
        longer.append(_synchronised(step) - usual)
        manager.wait()
        total.append((perf_counter() - start) * 1e3)
        _compare(manager, number, model, expected)
    report.add(f"{name}: held, the first save (pins the memory)", "ms", held[:1])
    report.add(f"{name}: held, each further save", "ms", held[1:])
    report.add(f"{name}: the step beside the copy, longer by", "ms", longer[1:])
    # The loop waits twice: in the call, and for the copy before the next step.
    both = [call + max(0.0, more) for call, more in zip(held[1:], longer[1:], strict=True)]
    waited = report.add(f"{name}: held, in the call and in the step beside the copy", "ms", both)
    report.add(f"{name}: until committed", "ms", total[1:])
    copy = report.add(f"{name}: plain copy to pinned memory", "ms", _plain_copies(size))
    report.notes.append(f"{name}: the copy runs at {size / copy / 1e6:.1f} GB/s")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    path = directory / "plain.pt"
    saved = [timed(lambda: torch.save(state, path)) for _ in range(2)]
    report.add(f"{name}: held, torch.save", "ms", saved)
    if gigabytes <= 2:
        report.bar(f"{name}: ms held, in the call and in the step beside the copy", waited, 10.0)
    manager.close()


def _plain_copies(size: int) -> list[float]:
    pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    return [_synchronised(lambda: pinned.copy_(source, non_blocking=True)) for _ in range(5)]


def _some(model: nn.Module) -> list[nn.Parameter]:
    parameters = list(model.parameters())
    return [parameters[0], parameters[len(parameters) // 2], parameters[-1]]


def _compare(
    manager: CheckpointManager, number: int, model: nn.Module, expected: list[torch.Tensor]
) -> None:
    """Check that the file has the weights of its own step, although training continued."""
    checkpoint = manager.load_checkpoint(number)
    assert checkpoint is not None
    names = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, tensor in zip(_some(model), expected, strict=True):
        assert torch.equal(checkpoint["model_state_dict"][names[parameter]], tensor.cpu())


def _synchronised(call: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = perf_counter()
    call()
    torch.cuda.synchronize()
    return (perf_counter() - start) * 1e3
