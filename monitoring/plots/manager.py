"""Plots of a run. Another process draws them, so matplotlib is never imported in this one."""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monitoring.arrays import Array
from monitoring.paths import RunPaths
from monitoring.plots.client import Picture, PlotClient, shared_client
from monitoring.plots.curves import Curve, History, Resume, numbers

logger = logging.getLogger(__name__)

_TOKENS = 256  # tokens shown: a vocabulary of 50,000 does not fit into a figure
_CLOSING = 60.0  # seconds that a call, or `close`, waits for plots
_SHAPES = {
    "base_freqs": ("tokens", "waves"),
    "phases": ("tokens", "waves"),
    "harmonic_amps": ("tokens", "waves", "harmonics"),
}


class VisualizationManager:
    """Plots the training curves, the embedding of a wave model, and comparisons of runs.

    A plot is written whole or not at all. An error is logged as a warning: a plot never ends a
    training run.

    Args:
        viz_dir: directory of the plots; created with the first one.
        viz_interval: steps between plots.
        background: return from the calls at once, with the paths, and draw while training goes
            on; `wait()` returns when the files exist. When drawing falls behind, older plots
            of a kind are skipped. By default the files exist when a call returns.
    """

    def __init__(
        self, viz_dir: str | Path, viz_interval: int = 1000, *, background: bool = False
    ) -> None:
        if viz_interval < 1:
            raise ValueError(f"viz_interval must be at least 1, not {viz_interval}")
        self.viz_dir = Path(viz_dir)
        self.viz_interval = viz_interval
        self._histories: dict[str, History] = {}
        self._told: set[str] = set()
        self._client = self._new_client() if background else None

    def should_visualize(self, step: int) -> bool:
        """Return whether plots are due after this step: at multiples of `viz_interval`, but not 0.

        Unlike `should_log` and `should_checkpoint` it does not count the step.
        """
        return step > 0 and step % self.viz_interval == 0

    def generate_training_plots(
        self,
        step: int,
        loss_history: Sequence[Any],
        metrics: Mapping[str, Any] | None = None,
        *,
        resumes: Sequence[int] | None = None,
    ) -> Path:
        """Plot the loss and every metric with a history: `training_dynamics_step_N.png`.

        The values of a history (any sequence of numbers) are plotted at equal distances from step 0
        to `step`. Metrics that are single numbers are ignored. `resumes` are the steps after which
        the run was resumed; by default those that `MetricsLogger.rewind` noted.
        """
        path = self.viz_dir / f"training_dynamics_step_{step}.png"
        with _warning_of(path.name):
            histories = {"loss": _history("loss_history", loss_history), **_histories(metrics)}
            arrays = {
                name: self._histories.setdefault(name, History()).update(values)
                for name, values in histories.items()
            }
            given = None if resumes is None else sorted({int(resumed) for resumed in resumes})
            run = RunPaths(self.viz_dir.absolute().parent)
            arguments = partial(_dynamics, step, arrays, given, run)
            self._draw(Picture("training_dynamics", path.absolute(), arguments))
        return path

    def generate_model_plots(self, step: int, model: Any) -> list[Path]:
        """Plot the frequencies, phases, harmonics and wave packets of `model.embedding`.

        Reads its attributes `base_freqs` (tokens, waves), `phases` (tokens, waves; radians) and
        `harmonic_amps` (tokens, waves, harmonics), at most 256 tokens at equal distances. The
        plots that need a missing attribute are left out; a model without any, such as a standard
        transformer, gives no plots and one warning.
        """
        waves, problems = _waves(model)
        for problem in problems:
            if problem not in self._told:
                self._told.add(problem)
                logger.warning("%s, skipping model plots", problem)
        needs = {
            "frequencies": ["base"],
            "phases": ["phi"],
            "harmonics": ["amplitudes"],
            "wave_packets": ["base", "phi", "amplitudes"],
        }
        pictures, paths = [], []
        for function, names in needs.items():
            if waves.keys() >= set(names):
                chosen = {name: waves[name] for name in ["stride", *names]}
                path = self.viz_dir / f"{function}_step_{step}.png"
                arguments = partial(_arrays, step, chosen)
                pictures.append(Picture(function, path.absolute(), arguments))
                paths.append(path)
        with _warning_of(f"the model plots of step {step}"):
            self._draw(*pictures)
        return paths

    def generate_comparison_plots(self, experiments: Sequence[Mapping[str, Any]]) -> Path:
        """Plot several runs in the same panels: `experiment_comparison.png`.

        Each experiment is a dict with `name`, `loss_history` and optionally `metrics`, a dict of
        histories.
        """
        path = self.viz_dir / "experiment_comparison.png"
        with _warning_of(path.name):
            runs = []
            for place, experiment in enumerate(experiments, start=1):
                with _warning_of(f"the curves of experiment {place} in {path.name}"):
                    runs.append(_run(place, experiment))
            self._draw(Picture("comparison", path.absolute(), lambda: {"experiments": runs}))
        return path

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for plots that are drawn in the background; return whether all are drawn.

        `seconds` limits the wait.
        """
        return self._client is None or self._client.wait(seconds)

    def close(self, seconds: float = _CLOSING) -> bool:
        """Finish background plots and end their drawing process; return whether all are drawn.

        Plots that are not drawn after `seconds` are dropped with a warning. A later plot starts a
        new drawing process.
        """
        return self._client is None or self._client.close(seconds)

    def _new_client(self) -> PlotClient:
        client = PlotClient()
        # The plots of a manager that is dropped are finished. At exit the client does that, after
        # handlers that may still request plots.
        weakref.finalize(self, client.retire).atexit = False
        return client

    def _draw(self, *pictures: Picture) -> None:
        """Have pictures drawn; their paths are absolute, because a program may change directory."""
        if self._client is None:
            client = shared_client()
            for picture in pictures:
                client.submit(picture)
            if not client.wait(_CLOSING, pictures):
                client.close(0)  # it hangs: kill it, with a warning that names what is lost
            return
        if not self._client.usable:  # closed, or this is a forked child
            self._client = self._new_client()
        for picture in pictures:
            self._client.submit(picture)


@contextmanager
def _warning_of(what: str) -> Iterator[None]:
    """Log exceptions as warnings: a failed plot must not end a training run."""
    try:
        yield
    except Exception as error:
        logger.warning("Failed to generate %s: %s: %s", what, type(error).__name__, error)


def _history(name: str, values: Any) -> Sequence[Any]:
    """The values of a metric. Raises TypeError if they are not a sequence of numbers."""
    if (
        isinstance(values, Mapping | str | bytes)
        or not (hasattr(values, "__getitem__") and hasattr(values, "__len__"))
        or getattr(values, "ndim", 1) != 1
    ):
        raise TypeError(f"{name} must be a sequence of numbers, not {type(values).__name__}")
    sequence: Sequence[Any] = values
    return sequence


def _histories(metrics: Mapping[str, Any] | None) -> dict[str, Sequence[Any]]:
    """The metrics with a history; logs a warning for each that looks like one and is not."""
    found = {}
    for name, values in (metrics or {}).items():
        if name == "loss" or values is None or isinstance(values, str | bytes | int | float):
            continue
        if getattr(values, "ndim", 1) == 0:
            continue
        with _warning_of(f"the curve of {name}"):
            history = _history("it", values)
            if len(history) > 1:
                found[str(name)] = history
    return found


def _dynamics(
    step: int,
    arrays: Mapping[str, Callable[[], Array]],
    resumes: Sequence[int] | None,
    run: RunPaths,
) -> dict[str, Any]:
    """The arguments of `figures.training_dynamics`."""
    return {
        "step": step,
        "curves": [Curve.until(step, name, values()) for name, values in arrays.items()],
        "resumes": list(_noted_resumes(run)) if resumes is None else [*map(Resume, resumes)],
        "title": run.root.resolve().name,
    }


def _run(place: int, experiment: Mapping[str, Any]) -> tuple[str, list[Curve]]:
    """The name and the curves of a run; logs one warning for missing entries."""
    missing = [name for name in ("name", "loss_history") if experiment.get(name) is None]
    if missing:
        logger.warning("Experiment %d of the comparison has no %s", place, " and no ".join(missing))
    losses = experiment.get("loss_history")
    histories = {
        "loss": numbers(_history("loss_history", [] if losses is None else losses)),
        **{name: numbers(values) for name, values in _histories(experiment.get("metrics")).items()},
    }
    lengths = [len(histories["loss"]), *map(len, histories.values())]
    last = max(next((length for length in lengths if length), 0) - 1, 0)
    name = experiment.get("name")
    return (
        f"run {place}" if name is None else str(name),
        [Curve.until(last, name, values) for name, values in histories.items()],
    )


def _noted_resumes(run: RunPaths) -> Iterator[Resume]:
    """The resumes that `MetricsLogger.rewind` noted, in the order of time."""
    try:
        lines = run.resumes.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            note = json.loads(line)
            resume = Resume(int(note["step"]), int(note.get("attempt") or 0))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue
        if resume.step >= 0:
            yield resume


def _waves(model: Any) -> tuple[dict[str, Any], list[str]]:
    """Copies of some of the embedding's waves, still on their device; and what is wrong."""
    while not hasattr(model, "embedding"):
        inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None)
        if inner is None:
            return {}, ["Model does not have 'embedding' attribute"]
        model = inner
    names = {"base": "base_freqs", "phi": "phases", "amplitudes": "harmonic_amps"}
    waves: dict[str, Any] = {}
    problems = []
    for name, attribute in names.items():
        if (table := getattr(model.embedding, attribute, None)) is not None:
            try:
                waves["stride"], waves[name] = _selection(attribute, table)
            except Exception as error:
                problems.append(f"Cannot plot the model's {attribute}: {error}")
    if not waves and not problems:
        problems = ["Model's 'embedding' does not have wave attributes"]
    return waves, problems


def _selection(attribute: str, table: Any) -> tuple[int, Any]:
    """The stride between selected tokens, and a copy of their rows. Raises ValueError."""
    if not hasattr(table, "detach"):
        table = np.asarray(table, dtype=np.float64)
    shape = tuple(table.shape)
    if len(shape) != len(_SHAPES[attribute]) or not all(shape):
        raise ValueError(f"its shape is {shape}, not ({', '.join(_SHAPES[attribute])})")
    stride = -(-shape[0] // _TOKENS)
    if isinstance(table, np.ndarray):
        return stride, table[::stride].copy()
    # A copy of a few kilobytes, which the next step does not change. On CUDA it is only queued;
    # the thread that needs it fetches it.
    return stride, table.detach()[::stride].clone()


def _arrays(step: int, waves: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the figures of a model."""
    return {
        "step": step,
        **{
            name: value.double().cpu().numpy() if hasattr(value, "detach") else value
            for name, value in waves.items()
        },
    }
