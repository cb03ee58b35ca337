"""What programs for the specification's first implementation rely on, to the letter."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Adam

from monitoring import (
    CheckpointManager,
    ConfigTracker,
    MetricsLogger,
    ResultsAggregator,
    ResultsParser,
    create_experiment_directory,
)
from monitoring.metrics.downsample import read_curves
from tests.unit.monitoring.test_results import LOG

MODEL = nn.Linear(10, 5)
OPTIMIZER = Adam(MODEL.parameters())


def save(manager: CheckpointManager, *steps: int) -> list[str | None]:
    return [manager.save_checkpoint(step, MODEL, OPTIMIZER, [1.5, 1.25], {}) for step in steps]


def test_directories_are_strings(tmp_path: Path) -> None:
    base = str(tmp_path)
    dirs = create_experiment_directory(base, "test_exp_001")
    root = os.path.join(base, "test_exp_001")  # noqa: PTH118  as a program may write it
    assert dirs == {
        "root": root,
        "checkpoints": root + "/checkpoints",
        "logs": root + "/logs",
        "visualizations": root + "/visualizations",
    }
    assert all(type(path) is str and Path(path).is_dir() for path in dirs.values())


@pytest.mark.parametrize("background", [False, True])
def test_a_saved_checkpoint_is_named_by_a_string(tmp_path: Path, background: bool) -> None:
    manager = CheckpointManager(str(tmp_path), async_save=background)
    [path] = save(manager, 100)
    manager.close()
    assert path is not None
    assert "checkpoint_step_100.pt" in path
    assert Path(path).exists()
    assert manager.experiment_dir == tmp_path
    assert [found["path"] for found in manager.list_checkpoints()] == [path]


def test_an_empty_log_is_at_step_0(tmp_path: Path) -> None:
    logger = MetricsLogger(str(tmp_path), log_interval=10)
    assert logger.get_latest_step() == 0
    for step in (10, 20):
        logger.log_metrics(step=step, metrics={"loss": 1.0})
    assert logger.get_latest_step() == 20


def test_the_configuration_describes_model_and_machine(tmp_path: Path) -> None:
    tracker = ConfigTracker(experiment_dir=str(tmp_path))
    frozen = nn.Sequential(nn.Linear(10, 5), nn.Linear(5, 2).requires_grad_(False))
    tracker.save_config({"lr": 0.001}, model=nn.DataParallel(frozen))
    loaded = tracker.load_config()
    assert loaded is not None
    assert tracker.experiment_dir == tmp_path
    assert loaded["experiment_id"] == tmp_path.name
    model = loaded["model"]
    assert (model["type"], model["num_parameters"]) == ("Sequential", 67)
    assert model["num_trainable_parameters"] == 55
    hardware = loaded["hardware"]
    assert hardware == tracker._get_hardware_info()
    assert hardware["platform"] == platform.platform()
    assert hardware["python_version"] == platform.python_version()
    assert hardware["cpu_count"] == os.cpu_count()
    assert hardware["gpu_available"] is torch.cuda.is_available()
    assert {"gpu_count", "gpu_model", "cuda_version"} <= hardware.keys()


def test_a_run_of_the_first_implementation_is_aggregated(tmp_path: Path) -> None:
    config = {"config": {}, "model": {"type": "Sequential", "num_parameters": 52_892_160}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "results.json").write_text(json.dumps({"final_metrics": {"val_loss": 4.5}}))
    aggregator = ResultsAggregator()
    aggregator.load_from_directory(tmp_path)
    results = {"val_loss": 4.25, "speed_tokens_per_sec": 3881.0}
    aggregator.add_experiment({"name": "b", "config": {}, "final_results": results})
    table = aggregator.generate_comparison_table()
    assert "52.89M" in table
    assert "3,881" in table
    assert aggregator.generate_summary_statistics()["val_loss"]["mean"] == 4.375


def test_a_configuration_of_the_first_implementation_has_a_gpu_or_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hardware": {"gpu_available": false}}')
    config = ConfigTracker(str(tmp_path)).load_config()
    assert config is not None
    assert config["hardware"]["gpu_model"] is None


def experiments(*names: str) -> ResultsAggregator:
    aggregator = ResultsAggregator()
    for loss, name in enumerate(names, start=4):
        results = {"best_val_loss": float(loss)}
        aggregator.experiments.append({"name": name, "config": {}, "final_results": results})
    return aggregator


def test_experiments_are_compared_by_a_part_of_their_names() -> None:
    standard, full = "Standard Transformer (GPT-2)", "Full Physics (RGD + QFE)"
    aggregator = experiments(standard, full, "RGD Only")
    found = aggregator.compare_experiments("standard", "Full")
    assert (found["experiment_1"], found["experiment_2"]) == (standard, full)
    assert found["experiments"] == [standard, full]
    assert found["metrics"]["val_loss"][full] - found["metrics"]["val_loss"][standard] == 1.0
    with pytest.raises(KeyError, match=r"several.*Full Physics.*RGD Only"):
        aggregator.compare_experiments("Standard", "RGD")
    assert aggregator.compare_experiments("Standard", "rgd only")["experiment_2"] == "RGD Only"
    with pytest.raises(KeyError, match=r"contains 'absent'; there are: Standard"):
        aggregator.compare_experiments("Standard", "absent")


def test_a_whole_name_is_meant_before_a_part_of_another() -> None:
    aggregator = experiments("Wave (RGD)", "Wave", "Standard", "Wave")
    found = aggregator.compare_experiments("Standard", "wave")["metrics"]["val_loss"]
    assert found["Wave"] == 5.0


def test_the_parser_finds_a_part_of_a_name(tmp_path: Path) -> None:
    results = tmp_path / "results.txt"
    results.write_text(LOG)
    parser = ResultsParser(str(results))
    found = parser.get_experiment_by_name("standard")
    assert found is not None
    assert found["name"] == "Standard Transformer"
    assert parser.get_experiment_by_name("absent") is None


READER = """
import json, sys
from datetime import datetime
from pathlib import Path
import torch

root = Path(sys.argv[1])
latest = root / "checkpoints" / "checkpoint_latest.pt"
safe = torch.load(latest, map_location="cpu")
checkpoint = torch.load(latest, map_location="cpu", weights_only=False)
model = torch.nn.Linear(10, 5)
optimizer = torch.optim.Adam(model.parameters())
for loaded in (safe, checkpoint):
    model.load_state_dict(loaded["model_state_dict"])
    optimizer.load_state_dict(loaded["optimizer_state_dict"])
    losses = loaded["loss_history"]
    losses.append(0.5)
found = [int(path.stem.split("_")[-1]) for path in latest.parent.glob("checkpoint_step_*.pt")]
rows = []
for line in (root / "logs" / "metrics.jsonl").open():
    if line.strip():
        rows.append(json.loads(line))
print(json.dumps({
    "step": checkpoint["step"],
    "losses": losses,
    "expected": f"{losses[-2]:.4f}",
    "config": checkpoint["config"],
    "saved": datetime.fromisoformat(checkpoint["timestamp"]).year > 2000,
    "git": isinstance(checkpoint["git_hash"], str),
    "safe": [safe[key] == checkpoint[key] for key in ("step", "loss_history", "config")],
    "steps": sorted(found),
    "rows": [[row["step"], row["loss"]] for row in rows],
    "timestamps": all("timestamp" in row for row in rows),
    "foreign": sorted(name for name in sys.modules if name.startswith("monitoring")),
}))
"""


def test_what_this_library_writes_the_first_implementation_reads(tmp_path: Path) -> None:
    manager, logger = CheckpointManager(tmp_path), MetricsLogger(tmp_path / "logs")
    for step in (10, 20):
        logger.log_metrics(step, {"loss": 1 / step, "learning_rate": 1e-3})
        manager.save_checkpoint(step, MODEL, OPTIMIZER, [1.5, 1.25], {"lr": 0.001})
    command = [sys.executable, "-I", "-c", READER, str(tmp_path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert found == {
        "step": 20,
        "losses": [1.5, 1.25, 0.5],
        "expected": "1.2500",
        "config": {"lr": 0.001},
        "saved": True,
        "git": True,
        "safe": [True] * 3,
        "steps": [10, 20],
        "rows": [[10, 0.1], [20, 0.05]],
        "timestamps": True,
        "foreign": [],
    }


def test_metrics_with_times_as_text_load(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path / "logs", log_interval=10)
    logger.log_dir.mkdir()
    lines = [
        {"step": step, "timestamp": f"2025-12-09T14:18:{step}.438209", "loss": 1 / step}
        for step in (10, 20, 30)
    ]
    logger.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert logger.load_metrics() == lines
    assert logger.get_latest_step() == 30
    summary = logger.get_metrics_summary()
    assert (summary["total_steps"], summary["loss_final"]) == (3, 1 / 30)
    assert not [name for name in summary if name.startswith("timestamp")]
    assert read_curves(logger.metrics_file)["loss"].steps == [10, 20, 30]
    logger.log_metrics(40, {"loss": 1 / 40})
    assert [row["step"] for row in logger.load_metrics()] == [10, 20, 30, 40]
    assert logger.rewind(20) == 2
    assert logger.load_metrics() == lines[:2]
