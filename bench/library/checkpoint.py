"""Measures a checkpoint of an AdamW state on the CPU: time held, time lost, memory.

Our save holds the loop twice: in the call, and before the optimizer's next step until the copy is
complete, if the passes of that step did not cover it. Both count.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict_saver import async_save

from bench.report import PeakMemory, Report, options, timed
from monitoring import CheckpointManager

_WIDTH = 1024
_BATCH = 64  # rows: few, so that the passes are as short as any for a model of this size


def main(argv: Sequence[str]) -> int:
    """Measure every method in turns; return 1 if a limit is exceeded."""
    parser = options("checkpoint", mb=360, rounds=7)
    parser.add_argument(
        "--dir", default=None, help="directory to write to (default: a temporary one)"
    )
    arguments = parser.parse_args(argv)
    model, optimizer = adamw_state(arguments.mb)
    size = state_bytes(model, optimizer)
    cores = len(os.sched_getaffinity(0))
    report = Report(
        "checkpoint",
        {"state_mb": round(size / 2**20), "rounds": arguments.rounds, "cores": cores},
    )
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        saver = Saver(Path(directory), model, optimizer)
        peak = PeakMemory()
        saver.ours()  # allocates the buffers
        saver.manager.wait()
        report.bar("peak extra memory / state", peak.extra() / size, 1.1)
        _measure_held(report, saver, size, arguments.rounds)
        for threads in sorted({1, cores}):
            _measure_lost(report, saver, threads, max(3, arguments.rounds // 2))
        saver.manager.close()
    return report.show(keep=arguments.keep)


def adamw_state(megabytes: float, device: str = "cpu") -> tuple[nn.Module, torch.optim.Optimizer]:
    """A float32 model whose weights and AdamW moments have this size in total."""
    layers = max(1, round(megabytes * 2**20 / 12 / (_WIDTH * (_WIDTH + 1))))
    model = nn.Sequential(*[nn.Linear(_WIDTH, _WIDTH, device=device) for _ in range(layers)])
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.rand_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model, optimizer


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors in a checkpoint."""
    moments = [
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    return sum(parameter.nbytes for parameter in model.parameters()) + sum(moments)


class Saver:
    """The methods to save the same state."""

    def __init__(self, directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.directory = directory
        self.model = model
        self.optimizer = optimizer
        self.manager = CheckpointManager(directory / "ours", keep_last_n=1, async_save=True)
        self._losses = [0.5] * 15_000
        self._step = 0
        self._files = 0

    def ours(self) -> None:
        """Begin an asynchronous save."""
        self._step += 1
        self.manager.save_checkpoint(self._step, self.model, self.optimizer, self._losses, {})

    def passes(self) -> None:
        """Forward and backward of the next step."""
        batch = torch.randn(_BATCH, _WIDTH)
        (self.model(batch) - batch).square().mean().backward()

    def waited_in_step(self) -> float:
        """Take the optimizer's step; return the milliseconds that passed before it began."""
        moments: list[float] = []
        # Global hooks run before those of this optimizer: our save waits between the two.
        hook = self.optimizer.register_step_pre_hook(lambda *_: moments.append(perf_counter()))
        start = perf_counter()
        self.optimizer.step()
        hook.remove()
        self.optimizer.zero_grad(set_to_none=True)
        return (moments[0] - start) * 1e3

    def plain(self) -> None:
        """`torch.save`, which may not survive a power failure."""
        torch.save(self._state(), self._new_file())

    def synchronous(self) -> None:
        """`torch.save`, synced to the disk."""
        with self._new_file().open("wb") as file:
            torch.save(self._state(), file)
            file.flush()
            os.fsync(file.fileno())

    def distributed(self) -> Any:
        """Begin a save with `torch.distributed.checkpoint`; return its future."""
        target = self.directory / "dcp"
        shutil.rmtree(target, ignore_errors=True)
        return async_save(self._state(), checkpoint_id=str(target))

    def forget(self) -> None:
        """Remove the files of `plain` and `synchronous`."""
        for path in self.directory.glob("*.pt"):
            path.unlink()

    def _state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def _new_file(self) -> Path:
        # A new name each time: overwriting is slower and would distort the comparison.
        self._files += 1
        return self.directory / f"{self._files}.pt"


def _measure_held(report: Report, saver: Saver, size: int, rounds: int) -> None:
    source = torch.rand(size // 4)
    target = torch.empty_like(source).copy_(source)
    held = defaultdict[str, list[float]](list)
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    for _ in range(rounds):
        held["memory copy"].append(timed(lambda: target.copy_(source)))
        held["torch.save"].append(timed(saver.plain))
        held["torch.save and fsync"].append(timed(saver.synchronous))
        saver.forget()
        held["ours, in the call"].append(timed(saver.ours))
        saver.passes()
        held["ours, before the next step"].append(saver.waited_in_step())
        saver.manager.wait()
        start = perf_counter()
        future = saver.distributed()
        held["dcp.async_save"].append((perf_counter() - start) * 1e3)
        future.result()
    parts = (held["ours, in the call"], held["ours, before the next step"])
    held["ours"] = [call + step for call, step in zip(*parts, strict=True)]
    medians = {name: report.add(f"held, {name}", "ms", taken) for name, taken in held.items()}
    ours = medians["ours"]
    report.bar("held, ms against torch.save / 15", ours, medians["torch.save"] / 15)
    report.bar("held, ms against 1.5 memory copies", ours, 1.5 * medians["memory copy"])
    report.bar("held, ms against dcp.async_save", ours, medians["dcp.async_save"])


def _measure_lost(report: Report, saver: Saver, threads: int, rounds: int) -> None:
    """Training time lost until the file is committed, by holding and by slowing the loop."""
    lost: dict[str, list[float]] = {"ours": [], "synchronous": []}
    with _threads(threads):
        step = training()
        for _ in range(rounds):
            lost["ours"].append(_lost(step, saver.ours, lambda: _done(saver)))
            saver.manager.wait()
            lost["synchronous"].append(_lost(step, saver.synchronous, lambda: True))
            saver.forget()
    label = f"lost, trainer on {threads} of {len(os.sched_getaffinity(0))} cores"
    medians = {name: report.add(f"{label}, {name}", "ms", taken) for name, taken in lost.items()}
    part = 5 if threads == 1 else 1
    limit = medians["synchronous"] / part
    report.bar(f"{label}, ms against synchronous / {part}", medians["ours"], limit)


def _done(saver: Saver) -> bool:
    save = saver.manager._save
    return save is None or save.done


def _lost(
    step: Callable[[], object], save: Callable[[], object], done: Callable[[], bool]
) -> float:
    """Milliseconds beyond the time of the same steps without a save."""
    usual = sorted(timed(step) for _ in range(60))[30]
    start = perf_counter()
    save()
    steps = 0
    while not done() or steps < 10:
        step()
        steps += 1
    return (perf_counter() - start) * 1e3 - steps * usual


def training() -> Callable[[], object]:
    """A step of about ten milliseconds that uses the processor as training does."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 512))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batch = torch.randn(64, 512)

    def step() -> None:
        loss = (model(batch) - batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(5):
        step()
    return step


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
