"""The library as its specification uses it, by both of its names."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

NUM_STEPS = 31


@pytest.fixture(params=["monitoring", "spectral_gpt.monitoring"])
def library(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    monkeypatch.chdir(tmp_path)
    return importlib.import_module(request.param)


class Wave(nn.Module):
    """A model with an embedding of waves."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Module()
        self.embedding.base_freqs = nn.Parameter(torch.rand(20, 4))
        self.embedding.phases = nn.Parameter(torch.rand(20, 4))
        self.embedding.harmonic_amps = nn.Parameter(torch.randn(20, 4, 2))
        self.head = nn.Linear(8, 20)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(
            self.embedding.harmonic_amps[batch].flatten(1)
            * self.embedding.base_freqs[batch].sin().repeat(1, 2)
        )
        return out


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    batch = torch.randint(0, 20, (8,))
    loss = nn.functional.cross_entropy(model(batch), batch.roll(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def test_the_quick_start_and_every_component(
    library: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Wave()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    experiment_id = library.generate_experiment_id("wave_rgd_qfe")
    dirs = library.create_experiment_directory("experiments", experiment_id)
    checkpoint_mgr = library.CheckpointManager(
        experiment_dir=dirs["root"], save_interval=10, keep_last_n=2
    )
    metrics_logger = library.MetricsLogger(log_dir=dirs["logs"], log_interval=10)
    viz_manager = library.VisualizationManager(viz_dir=dirs["visualizations"], viz_interval=10)
    config_tracker = library.ConfigTracker(experiment_dir=dirs["root"])
    config = {"lr": 0.001, "batch_size": 32}
    dataset_info = {"name": "TinyShakespeare", "num_tokens": 1000000}
    config_tracker.save_config(config=config, model=model, dataset_info=dataset_info)
    loss_history: list[float] = []
    for step in range(NUM_STEPS):
        loss = train_step(model, optimizer)
        loss_history.append(loss.item())
        metrics = {
            "loss": loss.item(),
            "learning_rate": optimizer.param_groups[0]["lr"],
            "perplexity": torch.exp(loss),
        }
        if metrics_logger.should_log(step):
            metrics_logger.log_metrics(step, metrics)
        if checkpoint_mgr.should_checkpoint(step):
            checkpoint_path = checkpoint_mgr.save_checkpoint(
                step, model, optimizer, loss_history, config
            )
            assert checkpoint_path.exists()
        if viz_manager.should_visualize(step):
            viz_manager.generate_training_plots(step, loss_history, metrics)
            viz_manager.generate_model_plots(step, model)
    config_tracker.save_results(
        final_metrics={"val_loss": 4.5, "perplexity": 90.0},
        best_checkpoint="checkpoints/checkpoint_step_5000.pt",
        generation_samples=["The theory of...", "In the beginning..."],
    )
    viz_manager.close()

    root = Path("experiments") / experiment_id
    assert {path.name for path in (root / "checkpoints").glob("*.pt")} == {
        "checkpoint_step_20.pt",
        "checkpoint_step_30.pt",
        "checkpoint_latest.pt",
    }
    assert (root / "checkpoints/checkpoint_latest.pt").readlink() == Path("checkpoint_step_30.pt")
    assert (root / "logs/training.log").exists()
    for name in ("training_dynamics", "frequencies", "phases", "harmonics", "wave_packets"):
        assert (root / "visualizations" / f"{name}_step_30.png").exists()
    assert json.loads((root / "results.json").read_text())["final_metrics"]["val_loss"] == 4.5

    for entry in metrics_logger.load_metrics():
        print(f"Step {entry['step']}: Loss={entry['loss']:.4f}")
    assert metrics_logger.get_latest_step() == 30
    summary = metrics_logger.get_metrics_summary()
    print(f"Total steps: {summary['total_steps']}")
    for part in ("final", "min", "mean", "max"):
        print(f"{part} loss: {summary[f'loss_{part}']:.4f}")
    for item in checkpoint_mgr.list_checkpoints():
        print(f"Step {item['step']}: {item['size_mb']:.2f} MB, {item['modified']}")
    loaded = config_tracker.load_config()
    print(f"Experiment ID: {loaded['experiment_id']}")
    print(f"Git hash: {loaded['git_hash']}")
    print(f"GPU: {loaded['hardware']['gpu_model']}")
    assert f"Experiment ID: {experiment_id}" in capsys.readouterr().out


def test_resuming_and_verifying_the_loss(library: ModuleType) -> None:
    model = Wave()
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint_mgr = library.CheckpointManager("run")
    assert checkpoint_mgr.load_latest_checkpoint() is None
    batch, targets = torch.arange(8), torch.arange(8)
    criterion = nn.CrossEntropyLoss()
    loss_history = [train_step(model, optimizer).item() for _ in range(5)]
    model.eval()
    loss_history[-1] = criterion(model(batch), targets).item()
    checkpoint_mgr.save_checkpoint(
        step=5000, model=model, optimizer=optimizer, loss_history=loss_history, config={}
    )

    model = Wave()
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint = checkpoint_mgr.load_latest_checkpoint()
    if checkpoint:
        model.load_state_dict(checkpoint["model_state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
        start_step = checkpoint["step"] + 1
        loss_history = checkpoint["loss_history"]
    assert start_step == 5001
    assert len(loss_history) == 5
    continuity = library.verify_loss_continuity(model, batch, targets, criterion, loss_history[-1])
    assert continuity
    assert continuity.difference < 1e-6
    by_step = checkpoint_mgr.load_checkpoint(step=5000)
    assert by_step is not None
    assert by_step["step"] == 5000


def test_several_gpus_and_minimal_integration(library: ModuleType) -> None:
    model: nn.Module = Wave()
    optimizer = torch.optim.AdamW(model.parameters())
    dirs = library.create_experiment_directory(
        "experiments", library.generate_experiment_id("my_experiment")
    )
    checkpoint_mgr = library.CheckpointManager(dirs["root"])
    metrics_logger = library.MetricsLogger(dirs["logs"])
    viz_manager = library.VisualizationManager(dirs["visualizations"])
    config_tracker = library.ConfigTracker(dirs["root"])
    config: dict[str, Any] = {}
    config_tracker.save_config(config, model, {"name": "x"})
    step, loss_history = 1000, [1.0] * 1001

    model = nn.DataParallel(model)
    checkpoint_mgr.save_checkpoint(step, model, optimizer, loss_history, config)
    checkpoint = checkpoint_mgr.load_latest_checkpoint()
    model.load_state_dict(checkpoint["model_state_dict"])

    if metrics_logger.should_log(step):
        metrics_logger.log_metrics(step, {"loss": torch.tensor(1.0).item()}, flush=True)
    if checkpoint_mgr.should_checkpoint(step):
        checkpoint_mgr.save_checkpoint(step, model, optimizer, loss_history, config)
    if viz_manager.should_visualize(step):
        viz_manager.generate_training_plots(step, loss_history, {})
    config_tracker.save_results({"val_loss": 1.0})
    viz_manager.generate_comparison_plots(
        [
            {
                "name": "Standard Transformer",
                "loss_history": [7.0, 6.5, 6.0, ...],
                "metrics": {"learning_rate": [0.001, 0.0009, ...]},
            },
            {
                "name": "Wave GPT",
                "loss_history": [6.8, 6.2, 5.8, ...],
                "metrics": {"learning_rate": [0.001, 0.0009, ...]},
            },
        ]
    )
    viz_manager.close()
    assert (dirs["visualizations"] / "training_dynamics_step_1000.png").exists()
    assert (dirs["visualizations"] / "experiment_comparison.png").exists()
    assert library.check_disk_space("experiments", min_gb=0)


def test_everything_the_library_offers_is_there(library: ModuleType) -> None:
    for name in library.__all__:
        assert getattr(library, name) is not None
