"""ConfigTracker, ids and the checks around a run."""

import argparse
import enum
import importlib.metadata
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from monitoring import (
    ConfigTracker,
    check_disk_space,
    create_experiment_directory,
    generate_experiment_id,
    get_git_hash,
    verify_loss_continuity,
)
from monitoring.checkpoints.plain import on_cpu, plain
from monitoring.json_values import jsonable, restored


def test_the_configuration_holds_what_repeating_a_run_needs(tmp_path: Path) -> None:
    tracker = ConfigTracker(tmp_path / "wave_1")
    assert tracker.load_config() is None
    torch.manual_seed(42)
    model = nn.Linear(3, 2)
    path = tracker.save_config({"lr": 1e-3, "nested": {"steps": 5}}, model, {"name": "stdlib"})
    assert path == tmp_path / "wave_1" / "config.json"
    config = tracker.load_config()
    assert config is not None
    assert config["experiment_id"] == "wave_1"
    assert config["config"] == {"lr": 1e-3, "nested": {"steps": 5}}
    assert config["dataset"] == {"name": "stdlib"}
    assert config["git_hash"] == get_git_hash()
    assert config["git_dirty"] in (True, False, None)
    assert config["model"]["parameters"] == 8
    assert config["seeds"]["torch"] == 42
    packages = config["software"]["packages"]
    assert packages["torch"] == config["software"]["torch"]
    assert packages == {d.name: d.version for d in importlib.metadata.distributions() if d.name}
    assert {"gpu_model", "gpu_count", "gpu_memory_gb", "gpu_driver", "cuda_version", "cpu",
            "platform"} <= set(config["hardware"])  # fmt: skip


def test_secrets_of_the_environment_never_get_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijk")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t/with+signs")
    monkeypatch.setattr("sys.argv", ["train.py", "--token=hf_abcdefghijk"])
    tracker = ConfigTracker(tmp_path)
    tracker.save_config({"token": "hf_abcdefghijk", "url": "https://u:s3cr3t/with+signs@host"})
    text = tracker.config_file.read_text()
    assert "hf_abcdefghijk" not in text
    assert "s3cr3t" not in text
    assert json.loads(text)["config"]["url"] == "https://u:***@host"


def test_results_read_back(tmp_path: Path) -> None:
    tracker = ConfigTracker(tmp_path)
    tracker.save_results({"val_loss": 4.5}, "checkpoints/checkpoint_step_8500.pt", ["The theory"])
    results = tracker.load_results()
    assert results is not None
    assert results["final_metrics"] == {"val_loss": 4.5}
    assert results["best_checkpoint"] == "checkpoints/checkpoint_step_8500.pt"
    assert results["generation_samples"] == ["The theory"]
    tracker.save_results({"val_loss": math.nan, "tensor": torch.tensor(2.0)})
    assert "NaN" in tracker.results_file.read_text()
    json.loads(tracker.results_file.read_text(), parse_constant=pytest.fail)


def test_two_experiments_of_the_same_second_differ() -> None:
    ids = {generate_experiment_id("wave_rgd_lr0.001") for _ in range(100)}
    assert len(ids) == 100
    assert all(name.startswith("wave_rgd_lr0.001_") and get_git_hash() in name for name in ids)


def test_an_experiment_has_its_directories(tmp_path: Path) -> None:
    name = generate_experiment_id("x")
    dirs = create_experiment_directory(tmp_path / "experiments", name)
    assert set(dirs) == {"root", "checkpoints", "logs", "visualizations"}
    assert dirs["root"] == str(tmp_path / "experiments" / name)
    assert all(Path(path).is_dir() for path in dirs.values())
    assert create_experiment_directory(tmp_path / "experiments", name) == dirs


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "a\\b", "a\0b"])
def test_a_name_that_would_leave_the_base_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot name an experiment"):
        generate_experiment_id(name)
    with pytest.raises(ValueError, match="cannot name an experiment"):
        create_experiment_directory(tmp_path, name)


def test_outside_a_repository_the_hash_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert get_git_hash() == "unknown"


def test_inside_a_repository_the_hash_is_that_of_the_commit_and_changes_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*command: str) -> str:
        run = ["git", "-c", "user.name=n", "-c", "user.email=e@x", *command]
        return subprocess.run(
            run, cwd=repository, check=True, capture_output=True, text=True
        ).stdout.strip()

    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    tracker = ConfigTracker(tmp_path / "run")
    git("init", "-q")
    for text in ("one", "two"):
        (repository / "train.py").write_text(text)
        git("add", "train.py")
        git("commit", "-q", "-m", text)
        assert git("rev-parse", "HEAD").startswith(get_git_hash())
        assert len(get_git_hash()) >= 7
        tracker.save_config({})
        clean = tracker.load_config()
        (repository / "train.py").write_text(f"{text} changed")
        tracker.save_config({})
        dirty = tracker.load_config()
        assert clean is not None
        assert dirty is not None
        assert clean["git_hash"] == dirty["git_hash"] == get_git_hash()
        assert (clean["git_dirty"], dirty["git_dirty"]) == (False, True)


def test_the_seed_of_numpy_is_known_until_it_is_used(tmp_path: Path) -> None:
    def noted() -> int | None:
        tracker.save_config({})
        config = tracker.load_config()
        assert config is not None
        return config["seeds"]["numpy"]  # type: ignore[no-any-return]

    tracker, before = ConfigTracker(tmp_path), np.random.get_state()
    try:
        np.random.seed(42)
        assert noted() == 42
        np.random.random()
        assert noted() is None
        np.random.seed()
        assert noted() is None
    finally:
        np.random.set_state(before)


def test_disk_space_is_checked_where_the_path_will_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert check_disk_space(tmp_path / "not" / "yet", min_gb=0)
    assert not check_disk_space(tmp_path, min_gb=10**9)
    assert "free" in caplog.text


def test_loss_continuity_disturbs_nothing() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    model[1].eval()
    batch, targets = torch.randn(8, 4), torch.randn(8, 1)
    state = torch.get_rng_state()
    first = verify_loss_continuity(model, batch, targets, nn.functional.mse_loss, 0.0, 100.0)
    assert first
    assert first.current > 0
    again = verify_loss_continuity(model, batch, targets, nn.functional.mse_loss, first.current)
    assert again.difference == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model[1].training


def test_a_discontinuity_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(1, 1)
    one = torch.ones(1, 1)
    assert not verify_loss_continuity(model, one, one, nn.functional.mse_loss, 1e6)
    assert not verify_loss_continuity(model, one * math.nan, one, nn.functional.mse_loss, 0.5)
    assert "expected 1000000.0000" in caplog.text


def test_reading_commit_records_and_metrics_needs_neither_torch_nor_matplotlib() -> None:
    script = (
        "import sys, monitoring\n"
        "import monitoring.paths, monitoring.checkpoints.commit\n"
        "import monitoring.metrics.logger, monitoring.metrics.downsample\n"
        "import monitoring.step_counter, monitoring.preemption, spectral_gpt.monitoring\n"
        "from monitoring import MetricsLogger, ResultsParser, VisualizationManager\n"
        "print([name for name in ('torch', 'matplotlib') if name in sys.modules])\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert said.stdout.strip() == "[]"


class Schedule(enum.Enum):
    COSINE = "cosine"


@dataclass
class Training:
    lr: float
    schedule: Schedule


@pytest.mark.parametrize("kind", [argparse.Namespace, SimpleNamespace, Training])
def test_a_namespace_and_a_dataclass_are_saved_like_a_dict(tmp_path: Path, kind: Any) -> None:
    tracker = ConfigTracker(tmp_path)
    tracker.save_config(kind(lr=math.inf, schedule=Schedule.COSINE))
    config = tracker.load_config()
    assert config is not None
    assert config["config"] == {"lr": math.inf, "schedule": "cosine"}


@given(value=st.text() | st.floats(allow_nan=False) | st.integers() | st.none())
def test_what_a_checkpoint_takes_is_simplified_alike(value: Any) -> None:
    tree = {"x": Training(value, Schedule.COSINE), "path": Path("a/b"), "scalar": np.float32(0.5)}
    assert restored(jsonable(tree)) == plain(tree, on_cpu)
