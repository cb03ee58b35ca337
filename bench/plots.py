"""How long plots at an interval hold the training loop."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from bench.report import Report, options, timed
from monitoring import VisualizationManager

_INTERVAL = 1000


class _Waves(nn.Module):
    """An embedding as the wave variant has it, with GPT-2's vocabulary."""

    def __init__(self, tokens: int = 50257, waves: int = 16, harmonics: int = 4) -> None:
        super().__init__()
        self.base_freqs = nn.Parameter(torch.rand(tokens, waves))
        self.phases = nn.Parameter(torch.rand(tokens, waves))
        self.harmonic_amps = nn.Parameter(torch.randn(tokens, waves, harmonics))


def main(argv: Sequence[str]) -> int:
    """Train in play, plot at the specification's interval; 1 when a bar is broken."""
    arguments = options("plots", steps=20_000).parse_args(argv)
    report = Report("plots", {"steps": arguments.steps, "interval": _INTERVAL})
    model = nn.Module()
    model.embedding = _Waves()
    held: dict[str, list[float]] = {"training plots": [], "model plots": []}
    losses: list[float] = []
    metrics: dict[str, list[float]] = {name: [] for name in ("learning_rate", "perplexity")}
    with tempfile.TemporaryDirectory() as directory:
        viz = VisualizationManager(Path(directory) / "visualizations", _INTERVAL)
        for step in range(arguments.steps):
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
        report.add("all drawn after the end", "ms", [timed(viz.wait)])
        viz.close()
    for name, values in held.items():
        report.add(f"{name}, the first", "ms held", values[:1])
        median = report.add(f"{name}, each further", "ms held", values[1:])
        report.bar(f"ms held by {name}", median, 2.0)
    return report.show(keep=arguments.keep)
