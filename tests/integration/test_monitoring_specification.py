"""The library as its specification uses it, by both of its names."""

import importlib
import inspect
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from tests.unit.monitoring.test_results import LOG

SPECIFICATION = Path(__file__).parents[1] / "specification" / "monitoring.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", SPECIFICATION.read_text(), re.MULTILINE | re.DOTALL)
# A class with its parameters, as `CheckpointManager(save_interval: int = 1000, …)`.
SIGNATURE = re.compile(r"(\w+)\(\n((?: +\w+: \w+(?: = \w+)?,? *(?:#.*)?\n)+)\)\n")
# What the specification leaves to its reader.
COMPLETED = {
    "'batch_size': 32, ...}": "'batch_size': 32}",
    "# ... training code ...\n```": "pass\n```",
}
NUM_STEPS = 31
PLOTS = ("training_dynamics", "frequencies", "phases", "harmonics", "wave_packets")


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

    def get_wave_ratio(self) -> float:
        return 0.5


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
            assert Path(checkpoint_path).exists()
        if viz_manager.should_visualize(step):
            viz_manager.generate_training_plots(step, loss_history, metrics)
            viz_manager.generate_model_plots(step, model)
            drawn = {path.name for path in viz_manager.viz_dir.glob(f"*_step_{step}.png")}
            assert drawn == {f"{name}_step_{step}.png" for name in PLOTS}
    config_tracker.save_results(
        final_metrics={"val_loss": 4.5, "perplexity": 90.0},
        best_checkpoint="checkpoints/checkpoint_step_5000.pt",
        generation_samples=["The theory of...", "In the beginning..."],
    )

    root = Path("experiments") / experiment_id
    assert {path.name for path in (root / "checkpoints").glob("*.pt")} == {
        "checkpoint_step_20.pt",
        "checkpoint_step_30.pt",
        "checkpoint_latest.pt",
    }
    assert (root / "checkpoints/checkpoint_latest.pt").readlink() == Path("checkpoint_step_30.pt")
    assert (root / "logs/training.log").exists()
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


def test_everything_the_library_offers_is_there(library: ModuleType) -> None:
    for name in library.__all__:
        assert getattr(library, name) is not None


def assumed(library: Any) -> dict[str, Any]:
    """What the blocks take for granted, beside what earlier ones made."""
    model = Wave()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = torch.arange(8)
    loss = nn.functional.cross_entropy(model(batch), batch)
    loss.backward()
    optimizer.step()
    offered = {name: getattr(library, name) for name in library.__all__}
    return offered | {
        "torch": torch, "nn": nn, "model": model, "optimizer": optimizer, "loss": loss,
        "batch": batch, "targets": batch, "criterion": nn.CrossEntropyLoss(),
        "coherence_loss": loss, "perplexity": loss.exp(), "step": 1000, "num_steps": 1001,
        "loss_history": [loss.item()] * 1001, "metrics": {"perplexity": loss.exp()},
        "lr_history": [1e-3] * 101, "perplexity_history": [90.0] * 101,
        "wave_ratio_history": [0.5] * 101, "config": {"lr": 1e-3}, "dataset_info": {"name": "x"},
        "val_loss": 1.0, "best_val_loss": 2.0, "final_val_loss": 1.0,
        "input": lambda _: "y",
        "exit": lambda code: None,  # a machine with a small disk
    }  # fmt: skip


def test_every_block_of_the_specification_runs(library: ModuleType) -> None:
    for file, text in (
        ("logs/metrics.jsonl", ""),
        ("spectral_gpt/experiment_results/results.txt", LOG),
    ):
        Path(file).parent.mkdir(parents=True)
        Path(file).write_text(text)
    names = assumed(library)
    ran = 0
    for number, block in enumerate(BLOCKS):
        if SIGNATURE.fullmatch(block):
            continue
        text = block.replace("spectral_gpt.monitoring", library.__name__) + "```"
        for given, completed in COMPLETED.items():
            text = text.replace(given, completed)
        exec(compile(text.removesuffix("```"), f"block {number}", "exec"), names)  # noqa: S102
        ran += 1
    assert ran == len(BLOCKS) - 4

    (first, second) = sorted(Path("experiments").iterdir(), key=lambda path: path.stat().st_mtime)
    assert (first.name.split("_20")[0], second.name.split("_20")[0]) == (
        "wave_rgd_qfe", "my_experiment",
    )  # fmt: skip
    for run in (first, second):
        assert (run / "checkpoints/checkpoint_latest.pt").exists()
        assert (run / "results.json").exists()
        assert (run / "visualizations/training_dynamics_step_1000.png").exists()


def test_every_signature_of_the_specification_is_the_librarys() -> None:
    library = importlib.import_module("spectral_gpt.monitoring")
    found = [match for block in BLOCKS if (match := SIGNATURE.fullmatch(block))]
    assert [match[1] for match in found] == [
        "CheckpointManager", "MetricsLogger", "VisualizationManager", "ConfigTracker",
    ]  # fmt: skip
    for match in found:
        wanted = re.findall(r" +(\w+): \w+(?: = (\w+))?", match[2])
        parameters = inspect.signature(getattr(library, match[1])).parameters
        usable = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        given = [(p.name, "" if p.default is p.empty else str(p.default)) for p in usable]
        assert given[: len(wanted)] == wanted
