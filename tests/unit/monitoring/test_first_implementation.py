"""What programs for the specification's first implementation rely on, to the letter."""

import os
from pathlib import Path

import pytest
from torch import nn
from torch.optim import Adam

from monitoring import CheckpointManager, MetricsLogger, create_experiment_directory

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
