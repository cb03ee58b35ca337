"""Measures one `log_metrics` call of six values, compared with other loggers and plain files."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.report import Report, options
from monitoring import MetricsLogger

Log = Callable[[int, dict[str, float]], object]
_ROUNDS = 5


def main(argv: Sequence[str]) -> int:
    """Measure every installed logger in turns; return 1 if a limit is exceeded."""
    arguments = options("metrics", calls=20_000).parse_args(argv)
    report = Report("metrics", {"calls": arguments.calls, "values": 6, "rounds": _ROUNDS})
    with tempfile.TemporaryDirectory() as directory:
        loggers = _loggers(Path(directory), report)
        taken: dict[str, list[float]] = {name: [] for name in loggers}
        # In turns, so that a busy moment of the machine meets all of them.
        for round_number in range(_ROUNDS):
            for name, log in loggers.items():
                calls = arguments.calls if name in _FAST else min(arguments.calls, 2000)
                taken[name] += _measure(log, calls // _ROUNDS, round_number)
        medians = {name: report.add(name, "µs per call", values) for name, values in taken.items()}
        report.add("monitoring, with sync", "µs per call", _measure_synced(Path(directory)))
    ours = medians.pop("monitoring")
    report.bar("µs per call, both files written", ours, 6.0)
    for name, median in medians.items():
        report.bar(f"monitoring against {name}, µs", ours, median)
    return report.show(keep=arguments.keep)


_FAST = ("monitoring", "open, append, close")


def _measure(log: Log, calls: int, round_number: int) -> list[float]:
    values = {
        "loss": 4.123456954956055, "learning_rate": 0.0009876543210123,
        "grad_norm": 0.8765432238578796, "tokens_per_sec": 15321.5,
        "perplexity": 61.77241134643555, "wave_ratio": 0.5012345910072327,
    }  # fmt: skip
    taken = []
    for call in range(calls):
        step = round_number * calls + call
        values["loss"] += 1e-7
        start = time.perf_counter_ns()
        log(step, values)
        taken.append((time.perf_counter_ns() - start) / 1e3)
    return taken


def _measure_synced(directory: Path) -> list[float]:
    """The cost of waiting for the disk after each row."""
    logger = MetricsLogger(directory / "synced")
    taken = []
    for step in range(200):
        start = time.perf_counter_ns()
        logger.log_metrics(step, {"loss": 1.5})
        logger.sync()
        taken.append((time.perf_counter_ns() - start) / 1e3)
    return taken


def _loggers(directory: Path, report: Report) -> dict[str, Log]:
    loggers: dict[str, Log] = {
        "monitoring": MetricsLogger(directory / "monitoring" / "logs").log_metrics,
        "open, append, close": _plain_files(directory / "plain"),
    }
    others = {
        "tensorboard": ("TensorBoard SummaryWriter", _tensorboard),
        "wandb": ("wandb, offline", _wandb),
        "trackio": ("trackio", _trackio),
    }
    for package, (name, make) in others.items():
        if importlib.util.find_spec(package) is None:
            report.notes.append(f"{name}: not installed, use `pip install {package}`")
        else:
            loggers[name] = make(directory / package)
    return loggers


def _plain_files(directory: Path) -> Log:
    """Opens, writes and closes both files for each row."""
    directory.mkdir()

    def log(step: int, metrics: dict[str, float]) -> None:
        now = time.time()
        with (directory / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "timestamp": now, **metrics}) + "\n")
            file.flush()
        with (directory / "training.log").open("a") as file:
            text = " | ".join(f"{name}: {value:.6g}" for name, value in metrics.items())
            file.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] step {step} | {text}\n")
            file.flush()

    return log


def _tensorboard(directory: Path) -> Log:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  if it is installed

    writer: Any = SummaryWriter(str(directory))

    def log(step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return log


def _wandb(directory: Path) -> Log:
    os.environ["WANDB_MODE"] = "offline"
    wandb = importlib.import_module("wandb")
    directory.mkdir()
    run = wandb.init(project="bench", dir=str(directory))
    return lambda step, metrics: run.log(metrics, step=step)


def _trackio(directory: Path) -> Log:
    os.environ["TRACKIO_DIR"] = str(directory)
    trackio = importlib.import_module("trackio")
    trackio.init(project="bench")
    return lambda step, metrics: trackio.log(dict(metrics), step=step)
