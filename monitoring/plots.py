"""Plots of a run, drawn by another process: the training loop only hands over the numbers."""

from __future__ import annotations

import atexit
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from monitoring.curves import Curve, History, numbers
from monitoring.painting import Painter, Picture
from monitoring.paths import RunPaths

logger = logging.getLogger(__name__)

_TOKENS = 256  # whose waves are shown: a vocabulary of 50,000 fits no picture
_AT_EXIT = 20.0  # seconds that the last plots may take when the program ends


class VisualizationManager:
    """Draws plots of training, of a wave model's embedding and of several runs side by side.

    The calls return at once with the paths; the files are there when `wait()` returns, whole
    or not at all. What fails is a warning: a plot never ends a training run.

    Args:
        viz_dir: directory of the plots, made with the first one.
        viz_interval: steps between plots.
        background: False draws in this process, before the calls return.
    """

    def __init__(
        self, viz_dir: str | Path, viz_interval: int = 1000, *, background: bool = True
    ) -> None:
        if viz_interval < 1:
            raise ValueError(f"viz_interval must be at least 1, not {viz_interval}")
        self.viz_dir = Path(viz_dir)
        self.viz_interval = viz_interval
        self._run = RunPaths(self.viz_dir.parent)
        self._painter = Painter() if background else None
        self._histories: dict[str, History] = {}
        self._told = False
        atexit.register(self._finish_at_exit)

    def should_visualize(self, step: int) -> bool:
        """Whether plots are due after this step; never at step 0."""
        return step > 0 and step % self.viz_interval == 0

    def generate_training_plots(
        self,
        step: int,
        loss_history: Sequence[Any],
        metrics: Mapping[str, Any] | None = None,
        *,
        resumes: Sequence[int] | None = None,
    ) -> Path:
        """Plot the loss and every metric that has a history: `training_dynamics_step_N.png`.

        Values are taken to lie at equal distances from step 0 to `step`. Metrics that are
        single numbers are left out. `resumes` are steps after which the run was resumed; without
        it, those that `MetricsLogger.rewind` noted.
        """
        histories = {"loss": loss_history, **_sequences(metrics or {})}
        arrays = {
            name: self._histories.setdefault(name, History()).update(values)
            for name, values in histories.items()
        }

        def arguments() -> dict[str, Any]:
            return {
                "step": step,
                "curves": [Curve.until(step, name, values) for name, values in arrays.items()],
                "resumes": list(self._noted_resumes()) if resumes is None else list(resumes),
                "title": self._run.root.resolve().name,
            }

        path = self.viz_dir / f"training_dynamics_step_{step}.png"
        self._draw(Picture("training_dynamics", path, arguments))
        return path

    def generate_model_plots(self, step: int, model: Any) -> list[Path]:
        """Plot `model.embedding`'s waves, those that it has of: frequencies, phases, harmonics.

        Reads `base_freqs` (tokens, waves), `phases` (tokens, waves) and `harmonic_amps` (tokens,
        waves, harmonics), of a selection of tokens where there are many. A model without them,
        such as a standard transformer, gives no plots and one warning.
        """
        waves = _waves(model)
        if not waves and not self._told:
            self._told = True
            logger.warning(
                "Model does not have an 'embedding' attribute with waves, skipping model plots"
            )
        needs = {
            "frequencies": ["base"],
            "phases": ["phi"],
            "harmonics": ["amplitudes"],
            "wave_packets": ["base", "phi", "amplitudes"],
        }
        paths = []
        for function, names in needs.items():
            if waves.keys() >= set(names):
                chosen = {name: waves[name] for name in ["stride", *names]}
                path = self.viz_dir / f"{function}_step_{step}.png"
                self._draw(Picture(function, path, partial(_arrays, step, chosen)))
                paths.append(path)
        return paths

    def generate_comparison_plots(self, experiments: Sequence[Mapping[str, Any]]) -> Path:
        """Plot several runs side by side: `experiment_comparison.png`.

        Each experiment has a `name`, a `loss_history` and may have `metrics` with histories.
        """
        runs = []
        for experiment in experiments:
            losses = numbers(experiment["loss_history"])
            last = max(len(losses) - 1, 0)
            sequences = _sequences(experiment.get("metrics") or {})
            curves = {"loss": losses, **{n: numbers(values) for n, values in sequences.items()}}
            runs.append(
                (
                    str(experiment["name"]),
                    [Curve.until(last, name, values) for name, values in curves.items()],
                )
            )
        path = self.viz_dir / "experiment_comparison.png"
        self._draw(Picture("comparison", path, lambda: {"experiments": runs}))
        return path

    def wait(self, seconds: float | None = None) -> bool:
        """Whether all plots are drawn, after at most so many seconds."""
        return self._painter is None or self._painter.wait(seconds)

    def close(self) -> None:
        """Finish the plots and end the drawing process."""
        atexit.unregister(self._finish_at_exit)
        if self._painter is not None:
            self._painter.close()
            self._painter = Painter()

    def _finish_at_exit(self) -> None:
        if self._painter is not None and not self._painter.close(_AT_EXIT):
            logger.warning("The last plots in %s were not finished", self.viz_dir)

    def _draw(self, picture: Picture) -> None:
        if self._painter is not None:
            self._painter.submit(picture)
        elif (error := picture.draw()) is not None:
            logger.warning("Failed to generate %s: %s", picture.path.name, error)

    def _noted_resumes(self) -> Iterator[int]:
        try:
            lines = self._run.resumes.read_text().splitlines()
        except OSError:
            return
        for line in lines:
            try:
                step = int(json.loads(line)["step"])
            except (ValueError, KeyError, TypeError):
                continue
            if step >= 0:
                yield step


def _sequences(metrics: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """The metrics that have a history to draw."""
    return {
        str(name): values
        for name, values in metrics.items()
        if name != "loss" and hasattr(values, "__getitem__") and not isinstance(values, str | bytes)
        and getattr(values, "ndim", 1) == 1 and len(values) > 1
    }  # fmt: skip


def _waves(model: Any) -> dict[str, Any]:
    """Copies of a selection of the embedding's waves, still on their device."""
    while not hasattr(model, "embedding"):
        inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None)
        if inner is None:
            return {}
        model = inner
    sources = {"base": "base_freqs", "phi": "phases", "amplitudes": "harmonic_amps"}
    waves: dict[str, Any] = {}
    for name, attribute in sources.items():
        if (tensor := getattr(model.embedding, attribute, None)) is not None:
            stride = waves["stride"] = -(-len(tensor) // _TOKENS)
            # A copy that the next step does not change, of a few kilobytes; on CUDA it is only
            # queued, and fetched by the thread that waits for it.
            waves[name] = tensor.detach()[::stride].clone()
    return waves


def _arrays(step: int, waves: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": step,
        **{
            name: value if name == "stride" else value.double().cpu().numpy()
            for name, value in waves.items()
        },
    }
