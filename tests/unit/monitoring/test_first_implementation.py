"""What programs for the specification's first implementation rely on, to the letter."""

import json
import os
import platform
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
    assert "52.89M" in aggregator.generate_comparison_table()


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
