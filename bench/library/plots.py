"""Measures how long plots at an interval hold the training loop."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from bench.report import Report, options, timed
from monitoring import VisualizationManager

_INTERVAL = 1000
_RESUMED = 100_000  # losses of a resumed run


class _Waves(nn.Module):
    """An embedding like the wave variant's, with GPT-2's vocabulary."""

    def __init__(self, tokens: int = 50257, waves: int = 16, harmonics: int = 4) -> None:
        super().__init__()
        self.base_freqs = nn.Parameter(torch.rand(tokens, waves))
        self.phases = nn.Parameter(torch.rand(tokens, waves))
        self.harmonic_amps = nn.Parameter(torch.randn(tokens, waves, harmonics))


def main(argv: Sequence[str]) -> int:
    """Simulate training with plots at the specified interval; return 1 if a limit is exceeded."""
    arguments = options("plots", steps=20_000).parse_args(argv)
    report = Report("plots", {"steps": arguments.steps, "interval": _INTERVAL})
    model = nn.Module()
    model.embedding = _Waves()
    held = _held(report, model, arguments.steps, 0)
    # The start of a resumed run: this process has drawn none of its history.
    resumed = [_held(report, model, _INTERVAL + 1, _RESUMED)["training plots"] for _ in range(5)]
    held["the first training plot of a resumed run"] = [value for [value] in resumed]
    for name, values in held.items():
        report.bar(f"ms held by {name}", report.add(name, "ms held", values), 2.0)
    return report.show(keep=arguments.keep)


def _held(report: Report, model: nn.Module, steps: int, known: int) -> dict[str, list[float]]:
    """Milliseconds per plot in a run of `steps` steps after `known` earlier losses."""
    held: dict[str, list[float]] = {"training plots": [], "model plots": []}
    losses = [8 / (1 + step / 100) for step in range(known)]
    metrics: dict[str, list[float]] = {
        name: [step * 0.5 for step in range(known)] for name in ("learning_rate", "perplexity")
    }
    with tempfile.TemporaryDirectory() as directory:
        viz = VisualizationManager(Path(directory) / "visualizations", _INTERVAL, background=True)
        for step in range(steps):
            losses.append(8 / (1 + step / 100))
            for history in metrics.values():
                history.append(step * 0.5)
            if viz.should_visualize(step):
                held["training plots"].append(
                    timed(lambda: viz.generate_training_plots(step, losses, metrics))  # noqa: B023
                )
                held["model plots"].append(
                    timed(lambda: viz.generate_model_plots(step, model))  # noqa: B023
                )
        report.add(f"all drawn after the end of {known + steps:,} steps", "ms", [timed(viz.wait)])
        viz.close()
    return held
