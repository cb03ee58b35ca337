"""Parser for the printed log of an ablation suite: boxes, progress lines and a final table.

📊 Parameters: 67,473,706 (67.47M)              belongs to the experiment below it
│ Full Physics (RGD + QFE)   │                  a box with one line names an experiment
🔄 Steps: 15000     ⚡ Optimizer: …     🌌 Loss: …     📈 LR: 1e-03
Step   250 | Train(CE): 6.8202 | Val: 6.7307 | AvgTrain: 7.9331 | R: 0.505
╭──── Full Physics (RGD + QFE) Output ────╮     the generated sample
│ Full Physics (RGD + QFE) │  ✓  │  ✓  │ 4.5620 │ 95.77 │ 3,881 │    the last table
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_NUMBER = r"([-+]?(?:\d[\d,]*\.?\d*(?:[eE][-+]?\d+)?|nan|inf))"
_STEP = re.compile(
    rf"Step\s+(?P<step>\d+)\s*\|\s*Train(?:\(\w+\))?:\s*{_NUMBER}\s*\|\s*Val:\s*{_NUMBER}"
    rf"(?:\s*\|\s*AvgTrain:\s*{_NUMBER})?(?:\s*\|\s*R:\s*{_NUMBER})?"
)
_BEST = re.compile(rf"New best:\s*{_NUMBER}|Restoring best model \(Val:\s*{_NUMBER}\)")
_SAMPLE = re.compile(r"^╭─+ (?P<name>.+) Output ─+╮$")
_FIELDS = {
    "steps": re.compile(r"Steps:\s*([\d,]+)\s*$"),
    "optimizer": re.compile(r"Optimizer:\s*(.+?)\s*$"),
    "loss": re.compile(r"(?<!Val )Loss:\s*(\D.*?)\s*$"),
    "learning_rate": re.compile(r"\bLR:\s*(\S+)\s*$"),
}
_PARAMETERS = re.compile(r"Parameters:\s*([\d,]+)\s*\(")
_INTEGERS = ("steps", "parameters")


def parse_suite_log(text: str) -> list[dict[str, Any]]:
    """Parse the experiments, in the order of the log; a name that ran twice occurs twice."""
    experiments: list[dict[str, Any]] = []
    lines = text.splitlines()
    index = 0
    while index < len(lines):
        line = lines[index]
        box = _box(lines, index) if line.startswith("╭") else None
        if box is not None:
            sample = _SAMPLE.match(line)
            if sample and experiments:
                experiments[-1]["generation_sample"] = " ".join(box).strip()
            elif len(box) == 1 and _announces(lines, index + len(box) + 2):
                experiments.append(_empty(box[0]))
            index += len(box) + 2
            continue
        if experiments:
            _read_line(line, experiments[-1])
        index += 1
    _read_tables(lines, experiments)
    return experiments


def _empty(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "config": dict.fromkeys(["parameters", *_FIELDS]),
        "training_metrics": [],
        "final_results": {},
        "generation_sample": None,
    }


def _box(lines: list[str], start: int) -> list[str] | None:
    """The text inside the box whose top is the line at `start`; None if it does not end."""
    inside: list[str] = []
    for line in lines[start + 1 :]:
        if line.startswith("╰"):
            return inside
        if not line.startswith("│"):
            return None
        inside.append(line.strip("│ \t"))
    return None


def _announces(lines: list[str], below: int) -> bool:
    """Whether the lines below a box describe an experiment."""
    return any(_PARAMETERS.search(line) for line in lines[below : below + 2])


def _read_line(line: str, experiment: dict[str, Any]) -> None:
    config, results = experiment["config"], experiment["final_results"]
    if row := _STEP.search(line):
        step, train, validation, average, ratio = row.groups()
        experiment["training_metrics"].append(
            {
                "step": int(step),
                "train_loss": _number(train),
                "val_loss": _number(validation),
                "avg_train_loss": _number(average),
                "wave_ratio": _number(ratio),
            }
        )
    elif best := _BEST.search(line):
        results["best_val_loss"] = _number(best[1] or best[2])
    elif config["parameters"] is None and (count := _PARAMETERS.search(line)):
        config["parameters"] = int(count[1].replace(",", ""))
    elif not experiment["training_metrics"]:
        for field, pattern in _FIELDS.items():
            if config[field] is None and (found := pattern.search(line)):
                config[field] = _field(field, found[1])


def _field(name: str, text: str) -> Any:
    if name in _INTEGERS:
        return int(text.replace(",", ""))
    return float(text) if name == "learning_rate" else text


def _read_tables(lines: list[str], experiments: list[dict[str, Any]]) -> None:
    """Add the results in the final table to the experiments that it lists."""
    for head, cells in _table_rows(lines):
        row = dict(zip(head, cells, strict=False))
        # The table has the results of the latest run of that name.
        for experiment in reversed(experiments):
            if experiment["name"] == row.get("Experiment"):
                results = experiment["final_results"]
                for column, name in (
                    ("Val Loss", "val_loss"),
                    ("Perplexity", "perplexity"),
                    ("Speed (tok/s)", "tokens_per_second"),
                ):
                    if column in row:
                        results[name] = _number(row[column])
                break


def _table_rows(lines: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    head: list[str] | None = None
    for line in lines:
        if line.startswith("┃"):
            head = [cell.strip() for cell in line.strip("┃").split("┃")]
        elif head is not None and line.startswith("│"):
            yield head, [cell.strip() for cell in line.strip("│").split("│")]
        elif not line.startswith("┡"):
            head = None


def _number(text: str | None) -> float | None:
    return None if text is None else float(text.replace(",", ""))
