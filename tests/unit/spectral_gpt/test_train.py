"""What a run leaves behind."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from monitoring import CheckpointManager, MetricsLogger
from monitoring.paths import RunPaths
from spectral_gpt.config import TrainConfig
from spectral_gpt.data import ByteTokenizer, load_corpus
from spectral_gpt.device import prepare_device
from spectral_gpt.errors import WorkloadError
from spectral_gpt.generate import generate
from spectral_gpt.model import GPT
from spectral_gpt.pace import Pace
from spectral_gpt.resume import Progress
from spectral_gpt.train import FINISHED, train

SIZES = {"d_model": 16, "num_layers": 1, "num_heads": 2, "num_waves": 4, "num_harmonics": 2}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, RunPaths]:
    """A run of 30 steps, with everything that a run writes."""
    root = tmp_path_factory.mktemp("runs")
    config = settings(
        root,
        steps=30,
        log_every=5,
        eval_every=10,
        checkpoint={"every_steps": 10, "keep_last": 2},
        sample_tokens=12,
        sample_prompt="3 sq",
    )
    assert train(config, root / "run") == FINISHED
    return config, RunPaths(root / "run")


def settings(folder: Path, **changes: Any) -> TrainConfig:
    text = folder / "text.txt"
    text.write_text("".join(f"{n} squared is {n * n}.\n" for n in range(400)))
    data: dict[str, Any] = {
        "model": {"block_size": 16, **SIZES},
        "optimizer": {"lr": 0.01, "warmup_steps": 3},
        "dataset": {"name": "path", "location": str(text)},
        "batch_size": 4,
        "eval_batches": 2,
    }
    return TrainConfig.from_dict(data | changes)


def test_rows_have_the_metrics_and_the_interval_that_were_asked_for(
    finished: tuple[TrainConfig, RunPaths],
) -> None:
    rows = MetricsLogger(finished[1].logs).load_metrics()
    assert [row["step"] for row in rows] == [0, 5, 10, 15, 20, 25, 29]
    names = {"loss", "learning_rate", "grad_norm", "tokens_per_sec", "perplexity", "wave_ratio"}
    assert all(row.keys() >= names for row in rows)
    assert [row["step"] for row in rows if "val_loss" in row] == [0, 10, 20, 29]
    # QFE: the loss is the cross-entropy, whose exponential is the perplexity, and some more.
    assert all(math.log(row["perplexity"]) < row["loss"] + 1e-6 for row in rows)
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.5


def test_checkpoints_come_at_their_interval_and_at_the_end(
    finished: tuple[TrainConfig, RunPaths],
) -> None:
    kept = [c["step"] for c in CheckpointManager(finished[1].root).list_checkpoints()]
    assert kept == [20, 29]


def test_results_name_the_best_step_and_show_a_sample(
    finished: tuple[TrainConfig, RunPaths],
) -> None:
    results = json.loads(finished[1].results.read_text())
    metrics = results["final_metrics"]
    assert metrics["best_step"] == 29
    assert metrics["best_val_loss"] == metrics["val_loss"]
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["val_loss"]))
    assert metrics["total_time_seconds"] > 0
    assert metrics["tokens_per_second"] > 0
    assert results["best_checkpoint"] == "checkpoints/checkpoint_step_29.pt"
    assert finished[1].best_checkpoint.resolve() == finished[1].checkpoint(29).resolve()
    (sample,) = results["generation_samples"]
    assert sample.startswith("3 sq")


def test_config_json_names_the_corpus_by_its_sha256(
    finished: tuple[TrainConfig, RunPaths],
) -> None:
    config, paths = finished
    document = json.loads(paths.config.read_text())
    corpus = load_corpus(config.dataset, 16)
    assert document["config"] == config.to_dict()
    assert document["dataset"]["sha256"] == corpus.sha256


def test_plots_of_curves_and_waves_are_there_at_the_end(
    finished: tuple[TrainConfig, RunPaths],
) -> None:
    names = {path.name for path in finished[1].visualizations.iterdir()}
    assert names >= {
        f"{name}_step_29.png"
        for name in ("training_dynamics", "frequencies", "phases", "harmonics", "wave_packets")
    }


def test_checkpoints_come_by_the_clock_too_and_no_plots_where_none_are_wanted(
    tmp_path: Path,
) -> None:
    config = settings(
        tmp_path,
        model={"type": "standard", "block_size": 16, **SIZES},
        steps=4,
        plot_every=0,
        sample_tokens=0,
        checkpoint={"every_steps": None, "every_seconds": 1e-6, "keep_last": 9},
    )
    train(config, tmp_path / "run")
    kept = CheckpointManager(tmp_path / "run").list_checkpoints()
    assert [c["step"] for c in kept] == [1, 2, 3]
    visualizations = RunPaths(tmp_path / "run").visualizations
    assert not visualizations.exists() or not list(visualizations.iterdir())


def test_the_best_saved_checkpoint_may_be_another_than_the_best_step() -> None:
    progress = Progress("")
    progress.validate(10, 2.0)
    assert progress.save(10)
    progress.validate(15, 1.0)  # not saved
    progress.validate(20, 1.5)
    assert progress.save(20)
    progress.validate(30, math.nan)
    assert not progress.save(30)
    assert (progress.best_step, progress.best_saved_step) == (15, 20)


def test_a_sample_comes_from_its_seed_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    model = GPT(TrainConfig.from_dict({"model": {"block_size": 16, **SIZES}}).model, 256)
    state = torch.get_rng_state()
    samples = [generate(model, ByteTokenizer(), "ab", 40, seed=seed) for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]
    assert samples[0].startswith("ab")
    assert generate(model, ByteTokenizer(), "", 3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


def test_pace_counts_useful_seconds_and_the_steps_of_this_attempt() -> None:
    now = 100.0
    pace = Pace(tokens_per_step=50, first_step=10, seconds_before=7.0, clock=lambda: now)
    now = 104.0
    assert pace.seconds() == 11.0
    assert pace.tokens_per_second(17) == 100.0  # 8 steps in 4 s
    assert pace.time_left(17, 258) == "2:00"  # 240 steps of half a second


@pytest.mark.parametrize(
    ("value", "message"),
    [("tpu", "must be auto, cpu or cuda, not 'tpu'"), ("cuda", "no CUDA device")],
)
def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    if value == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one here")
    monkeypatch.setenv("SPECTRAIN_DEVICE", value)
    with pytest.raises(WorkloadError, match=message):
        prepare_device()
