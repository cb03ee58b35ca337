"""Results of experiments, from the log of a suite or from finished runs, and comparisons."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

from monitoring.files import write_atomically
from monitoring.json_values import jsonable, restored
from monitoring.metrics import rows
from monitoring.paths import RunPaths
from monitoring.runs.suite_log import parse_suite_log

logger = logging.getLogger(__name__)

Experiment = dict[str, Any]

# The metrics that are compared, with their headings in the table and their formats.
_COLUMNS = {
    "val_loss": ("Val Loss", "{:.4f}"),
    "perplexity": ("Perplexity", "{:.2f}"),
    "tokens_per_second": ("Speed (tok/s)", "{:,.0f}"),
}
_MISSING = "N/A"
# As the specification's first implementation names them.
_FIRST_NAMES = {"tokens_per_second": "speed_tokens_per_sec", "perplexity": "final_perplexity"}


class ResultsParser:
    """Reads experiments from the printed log of an ablation suite.

    Each has `name`, `config` (`parameters`, `steps`, `optimizer`, `loss`, `learning_rate`),
    `training_metrics` (rows of `step`, `train_loss`, `val_loss`, `avg_train_loss`,
    `wave_ratio`), `final_results` (`best_val_loss`, and `val_loss`, `perplexity`,
    `tokens_per_second` where the suite's last table has them) and `generation_sample`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._experiments: list[Experiment] | None = None

    def parse(self) -> list[Experiment]:
        """Read the experiments, in the order of the file. Raises OSError."""
        self._experiments = parse_suite_log(self.path.read_text(encoding="utf-8"))
        return self._experiments

    def get_all_experiments(self) -> list[Experiment]:
        """Return the experiments; read the file if that was not done yet. Raises OSError."""
        return self.parse() if self._experiments is None else self._experiments

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        """Return the experiment of this name, or None if there is none.

        Case does not matter, and a part of the name is enough if one name only contains it.
        Raises KeyError if several names contain it.
        """
        return _find(name, self.get_all_experiments())

    def save_to_json(self, path: str | Path) -> Path:
        """Write `experiments`, `parsed_at` and `source_file`; return the path. Raises OSError."""
        document = {
            "experiments": self.get_all_experiments(),
            "parsed_at": datetime.now(UTC).isoformat(),
            "source_file": str(self.path),
        }
        return _write_json(Path(path), document)


class ResultsAggregator:
    """Collects experiments from logs, JSON files and runs, and compares them."""

    def __init__(self) -> None:
        self.experiments: list[Experiment] = []

    def load_from_json(self, path: str | Path) -> None:
        """Add the experiments of `ResultsParser.save_to_json`. Raises OSError and ValueError."""
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        self.experiments += restored(document["experiments"])

    def load_from_parser(self, parser: ResultsParser) -> None:
        """Add the experiments of a parser. Raises OSError."""
        self.experiments += parser.get_all_experiments()

    def add_experiment(self, experiment: Mapping[str, Any]) -> None:
        """Add one experiment, a dict as `ResultsParser` describes it."""
        self.experiments.append(dict(experiment))

    def load_from_directory(self, directory: str | Path) -> None:
        """Add every finished run below a directory; such a run has `results.json`."""
        for results_file in sorted(Path(directory).rglob(RunPaths(Path()).results.name)):
            try:
                self.experiments.append(_read_run(RunPaths(results_file.parent)))
            except (OSError, ValueError) as error:
                logger.warning("Skipped the run of %s: %s", results_file, error)

    def generate_comparison_table(self) -> str:
        """Return a Markdown table: Experiment, Parameters, Val Loss, Perplexity, Speed (tok/s)."""
        heads = ["Experiment", "Parameters", *(head for head, _ in _COLUMNS.values())]
        table = [heads]
        for experiment in self.experiments:
            parameters = experiment["config"].get("parameters")
            table.append(
                [
                    experiment["name"],
                    _MISSING if parameters is None else f"{parameters / 1e6:.2f}M",
                    *(_cell(experiment, metric) for metric in _COLUMNS),
                ]
            )
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for row in table:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("| " + " | ".join(cells) + " |")
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(lines)

    def generate_summary_statistics(self) -> dict[str, Any]:
        """Return `num_experiments`, and for each metric `mean`, `median`, `min`, `max`, `stdev`.

        The metrics are `val_loss`, `perplexity` and `tokens_per_second`. A metric that no
        experiment has is left out. So is a value that is not finite, as in a run that diverged. The
        deviation of a single value is 0.
        """
        summary: dict[str, Any] = {"num_experiments": len(self.experiments)}
        for metric in _COLUMNS:
            values = [v for e in self.experiments if _is_finite(v := _metric(e, metric))]
            if values:
                summary[metric] = {
                    "mean": statistics.fmean(values),
                    "median": statistics.median(values),
                    "min": min(values),
                    "max": max(values),
                    "stdev": statistics.stdev(values) if len(values) > 1 else 0.0,
                }
        return summary

    def compare_experiments(self, first: str, second: str) -> dict[str, Any]:
        """Compare two experiments, given by name as in `ResultsParser.get_experiment_by_name`.

        `experiment_1` and `experiment_2` are their full names, in a list too (`experiments`).
        `metrics` maps each metric that both have to its two values by name, their `difference`
        (second less first) and that as `percent` of the first.

        Raises KeyError if no name or more than one name contains what is given.
        """
        one, two = self._named(first), self._named(second)
        first, second = one["name"], two["name"]
        metrics = {}
        for metric in _COLUMNS:
            a, b = _metric(one, metric), _metric(two, metric)
            if a is not None and b is not None:
                metrics[metric] = {
                    first: a,
                    second: b,
                    "difference": b - a,
                    "percent": 100 * (b - a) / a if a else None,
                }
        return {
            "experiment_1": first,
            "experiment_2": second,
            "experiments": [first, second],
            "metrics": metrics,
        }

    def generate_ablation_analysis(self, baseline: str | None = None) -> dict[str, Any]:
        """Return how much each experiment lowers the validation loss of the baseline.

        `baseline` is the named experiment (a part of the name is enough), else the first one whose
        name contains "standard" or "baseline", else the first one. `components` maps each other
        experiment to its `val_loss`, its `improvement` (baseline less experiment) and that as
        `percent`. `best_component` and `best_improvement` are the best of them, None if there is
        nothing to compare. An experiment that diverged has no improvement, and is the baseline only
        if it is named.

        Raises KeyError if the named baseline does not exist.
        """
        measured = [e for e in self.experiments if _metric(e, "val_loss") is not None]
        sound = [e for e in measured if _is_finite(_metric(e, "val_loss"))]
        if baseline is not None:
            reference = self._named(baseline)
        elif sound:
            reference = next((e for e in sound if _is_baseline(e["name"])), sound[0])
        else:
            keys = ("baseline", "best_component", "best_improvement")
            return {**dict.fromkeys(keys), "components": {}}
        start = _metric(reference, "val_loss")
        components = {}
        for experiment in measured:
            value = _metric(experiment, "val_loss")
            if experiment is not reference:
                gain = start - value if _is_finite(start) and _is_finite(value) else None
                components[experiment["name"]] = {
                    "val_loss": value,
                    "improvement": gain,
                    "percent": 100 * gain / start if gain is not None and start else None,
                }
        gains = {n: c["improvement"] for n, c in components.items() if c["improvement"] is not None}
        best = max(gains, key=gains.__getitem__, default=None)
        return {
            "baseline": {"name": reference["name"], "val_loss": start},
            "components": components,
            "best_component": best,
            "best_improvement": None if best is None else gains[best],
        }

    def save_summary(self, path: str | Path) -> Path:
        """Write experiments, table, statistics and ablation as JSON; return the path.

        Raises OSError.
        """
        document = {
            "generated_at": datetime.now(UTC).isoformat(),
            "experiments": self.experiments,
            "comparison_table": self.generate_comparison_table(),
            "summary_statistics": self.generate_summary_statistics(),
            "ablation_analysis": self.generate_ablation_analysis(),
        }
        return _write_json(Path(path), document)

    def _named(self, name: str) -> Experiment:
        found = _find(name, self.experiments)
        if found is None:
            known = ", ".join(experiment["name"] for experiment in self.experiments) or "none"
            raise KeyError(f"no experiment's name contains {name!r}; there are: {known}")
        return found


def _find(name: str, experiments: Sequence[Experiment]) -> Experiment | None:
    """The experiment of this name, else the one whose name contains it. Raises KeyError."""
    wanted = name.lower()
    for experiment in experiments:
        if experiment["name"].lower() == wanted:
            return experiment
    found = [experiment for experiment in experiments if wanted in experiment["name"].lower()]
    names = list(dict.fromkeys(experiment["name"] for experiment in found))
    if len(names) > 1:
        raise KeyError(f"{name!r} is part of several experiments' names: {', '.join(names)}")
    return found[0] if found else None


def _metric(experiment: Mapping[str, Any], metric: str) -> float | None:
    results = experiment["final_results"]
    value = results.get(metric, results.get(_FIRST_NAMES.get(metric, metric)))
    if metric == "val_loss":  # the best if known: the last depends on when a run stops
        value = results.get("best_val_loss", value)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):  # it is not a number
        return None


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _cell(experiment: Mapping[str, Any], metric: str) -> str:
    value = _metric(experiment, metric)
    return _MISSING if value is None else _COLUMNS[metric][1].format(value)


def _is_baseline(name: str) -> bool:
    return any(word in name.lower() for word in ("standard", "baseline"))


def _read_run(paths: RunPaths) -> Experiment:
    """Read a finished run in the form of `ResultsParser`.

    Raises OSError, and ValueError if a file has another format.
    """
    results = json.loads(paths.results.read_bytes())
    config = json.loads(paths.config.read_bytes()) if paths.config.exists() else {}
    for path, document in ((paths.results, results), (paths.config, config)):
        if not isinstance(document, dict):
            raise ValueError(f"{path.name} does not contain a JSON object")
    chosen = _object(config.get("config"))
    model = _object(config.get("model"))
    training = _object(chosen.get("training")) or chosen
    optimizer = chosen.get("optimizer") or training.get("optimizer")
    loss = chosen.get("loss") or training.get("loss")
    metrics = []
    if paths.metrics.exists():
        metrics = [row for _, row in rows.read(paths.metrics) if not isinstance(row, ValueError)]
    samples = results.get("generation_samples")
    return {
        "name": results.get("experiment_id") or paths.root.name,
        "config": {
            "parameters": model.get("parameters", model.get("num_parameters")),
            "steps": training.get("steps"),
            "optimizer": optimizer.get("name") if isinstance(optimizer, dict) else optimizer,
            "loss": loss.get("name") if isinstance(loss, dict) else loss,
            "learning_rate": optimizer.get("lr")
            if isinstance(optimizer, dict)
            else training.get("lr"),
        },
        "training_metrics": [
            {
                "step": row["step"],
                "train_loss": row.get("loss"),
                "val_loss": row["val_loss"],
                "avg_train_loss": row.get("avg_train_loss"),
                "wave_ratio": row.get("wave_ratio"),
            }
            for row in metrics
            if "val_loss" in row
        ],
        "final_results": _object(results.get("final_metrics")),
        "generation_sample": samples[0] if isinstance(samples, list) and samples else None,
    }


def _object(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _write_json(path: Path, document: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(jsonable(document), indent=2, ensure_ascii=False)
    write_atomically(path, text.encode() + b"\n")
    return path
