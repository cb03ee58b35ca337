"""Plots come from another process, newest first, and never end or hold a training run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from monitoring import VisualizationManager
from monitoring.curves import History
from monitoring.figures import smooth
from monitoring.painting import Painter, Picture

PNG = b"\x89PNG\r\n\x1a\n"


class Waves(nn.Module):
    """An embedding with waves, as the wave variant has it."""

    def __init__(self, tokens: int = 300) -> None:
        super().__init__()
        self.base_freqs = nn.Parameter(torch.rand(tokens, 4))
        self.phases = nn.Parameter(torch.rand(tokens, 4) * 9)
        self.harmonic_amps = nn.Parameter(torch.randn(tokens, 4, 3))


class WaveModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = Waves()


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(PNG) and path.stat().st_size > 10_000


def test_training_and_model_plots_are_drawn_by_another_process(tmp_path: Path) -> None:
    viz = VisualizationManager(tmp_path / "run" / "visualizations")
    metrics = {"learning_rate": [1e-3] * 50, "perplexity": list(range(1, 60)), "now": 3.0}
    paths = [viz.generate_training_plots(100, [7.0 / (n + 1) for n in range(101)], metrics)]
    paths += viz.generate_model_plots(100, WaveModel())
    assert viz.wait(120)
    assert [path.name for path in paths] == [
        f"{name}_step_100.png"
        for name in ("training_dynamics", "frequencies", "phases", "harmonics", "wave_packets")
    ]
    assert all(is_png(path) for path in paths)
    assert "matplotlib.pyplot" not in sys.modules
    viz.close()


def test_drawing_here_leaves_the_callers_settings_alone(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    viz = VisualizationManager(tmp_path, background=False)
    path = viz.generate_training_plots(3, [3.0, float("nan"), 2.0, 1.0], {}, resumes=[1])
    assert is_png(path)
    assert dict(mpl.rcParams) == before


def test_a_comparison_takes_curves_of_any_length(tmp_path: Path) -> None:
    viz = VisualizationManager(tmp_path, background=False)
    experiments: list[dict[str, Any]] = [
        {
            "name": "Standard Transformer",
            "loss_history": [7.0, 6.5, 6.0, ...],
            "metrics": {"learning_rate": [0.001, 0.0009, ...]},
        },
        {"name": "Wave GPT", "loss_history": np.linspace(6.8, 4, 500)},
        {"name": "Just begun", "loss_history": []},
    ]
    path = viz.generate_comparison_plots(experiments)
    assert path.name == "experiment_comparison.png"
    assert is_png(path)


def test_a_model_without_waves_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    viz = VisualizationManager(tmp_path)
    assert viz.generate_model_plots(1, nn.Linear(2, 2)) == []
    assert viz.generate_model_plots(2, nn.Linear(2, 2)) == []
    [warning] = caplog.records
    assert "does not have an 'embedding' attribute" in warning.getMessage()


def test_a_wrapped_and_an_incomplete_model_give_the_plots_they_can(tmp_path: Path) -> None:
    model = WaveModel()
    del model.embedding.harmonic_amps
    viz = VisualizationManager(tmp_path, background=False)
    paths = viz.generate_model_plots(5, nn.DataParallel(model))
    assert [path.name for path in paths] == ["frequencies_step_5.png", "phases_step_5.png"]
    assert all(is_png(path) for path in paths)


def test_plots_hold_what_the_model_was_at_the_call() -> None:
    from monitoring.plots import _waves

    model = WaveModel()
    waves = _waves(model)
    before = waves["base"].clone()
    with torch.no_grad():
        model.embedding.base_freqs.zero_()
    assert torch.equal(waves["base"], before)
    assert len(waves["base"]) <= 256


def test_a_failing_plot_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "viz").write_text("a file where the directory should be")
    viz = VisualizationManager(tmp_path / "viz")
    viz.generate_training_plots(1, [1.0, 2.0])
    assert viz.wait(120)
    [warning] = caplog.records
    assert "Failed to generate training_dynamics_step_1.png" in warning.getMessage()
    viz.close()


def test_when_drawing_falls_behind_the_newest_wins(tmp_path: Path) -> None:
    viz = VisualizationManager(tmp_path)
    for step in range(1, 51):
        viz.generate_training_plots(step, [1.0] * (step + 1))
    assert viz.wait(120)
    drawn = sorted(int(path.stem.rpartition("_")[2]) for path in tmp_path.glob("*.png"))
    assert drawn[-1] == 50
    assert len(drawn) < 10
    viz.close()


def test_a_drawing_process_that_dies_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    painter = Painter()
    curve = {"curves": [], "resumes": [], "title": "x", "step": 1}

    def picture(name: str) -> Picture:
        from monitoring.curves import Curve

        loss = Curve("loss", np.arange(3.0), np.arange(3.0))
        return Picture("training_dynamics", tmp_path / name, lambda: {**curve, "curves": [loss]})

    painter.submit(picture("a.png"))
    assert painter.wait(120)
    assert painter._process is not None
    os.kill(painter._process.pid, signal.SIGKILL)
    painter.submit(picture("b.png"))
    assert painter.wait(120)
    assert "ended with code -9" in caplog.text
    painter.submit(picture("c.png"))
    assert painter.wait(120)
    assert is_png(tmp_path / "a.png")
    assert is_png(tmp_path / "c.png")
    assert painter.close()


def test_a_program_that_ends_finishes_its_plots_and_leaves_no_process(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from monitoring import VisualizationManager\n"
        "viz = VisualizationManager(sys.argv[1])\n"
        "viz.generate_training_plots(9, [3.0, 2.0, 1.0])\n"
        "print('done', flush=True)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)
    assert is_png(tmp_path / "training_dynamics_step_9.png")


def test_the_drawing_process_ends_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from monitoring import VisualizationManager\n"
        "viz = VisualizationManager(sys.argv[1])\n"
        "viz.generate_training_plots(9, [3.0, 2.0, 1.0])\n"
        "viz.wait()\n"
        "print(viz._painter._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=False, capture_output=True, timeout=120
    )
    drawing = Path("/proc") / parent.stdout.decode().strip() / "cmdline"
    deadline = time.monotonic() + 20
    while drawing.exists() and b"monitoring.drawing" in drawing.read_bytes():
        assert time.monotonic() < deadline


def test_resumes_that_the_logger_noted_are_marked(tmp_path: Path) -> None:
    viz = VisualizationManager(tmp_path / "visualizations")
    (tmp_path / "logs").mkdir()
    lines = [json.dumps({"step": step}) for step in (-1, 300, 700)]
    (tmp_path / "logs" / "resumes.jsonl").write_text("\n".join([*lines, "torn"]))
    assert list(viz._noted_resumes()) == [300, 700]


def test_plots_are_due_at_the_interval_and_never_at_step_0(tmp_path: Path) -> None:
    viz = VisualizationManager(tmp_path, viz_interval=5)
    assert [step for step in range(11) if viz.should_visualize(step)] == [5, 10]
    with pytest.raises(ValueError, match="at least 1"):
        VisualizationManager(tmp_path, viz_interval=0)


def test_a_history_converts_only_what_is_new_and_notices_another_list() -> None:
    history = History()
    values: list[Any] = [float(n) for n in range(2000)]
    first = history.update(values)
    values += [None, ..., torch.tensor(3.0)]
    second = history.update(values)
    assert np.array_equal(first, np.arange(2000.0))
    assert np.array_equal(second[:2000], first)
    assert np.isnan(second[2000:2002]).all()
    assert second[2002] == 3.0
    assert history.update([9.0, 8.0]).tolist() == [9.0, 8.0]
    assert second[0] == 0.0  # an array that was given out stays what it is


def test_smoothing_follows_the_curve_and_leaves_clean_ones_alone() -> None:
    steps = np.arange(5000.0)
    clean = 4 + 4 * np.exp(-steps / 900)
    noisy = clean + np.random.default_rng(0).normal(0, 0.2, 5000)
    noisy[2500] = np.nan
    assert np.abs(smooth(noisy) - clean).max() < 0.25
    assert np.abs(smooth(noisy) - clean).mean() < 0.03
    assert smooth(clean) is clean
