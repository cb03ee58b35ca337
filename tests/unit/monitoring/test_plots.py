"""Plots come from another process, newest first, and never end or hold a training run."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from monitoring import VisualizationManager
from monitoring.paths import RunPaths
from monitoring.plots import curves
from monitoring.plots.client import Picture, PlotClient, shared_client
from monitoring.plots.curves import Curve, History, Resume, numbers, smooth
from monitoring.plots.manager import _noted_resumes

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
    viz = VisualizationManager(tmp_path / "run" / "visualizations", background=True)
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


def test_plots_are_written_when_the_call_returns_unless_asked_otherwise(tmp_path: Path) -> None:
    viz = VisualizationManager(tmp_path)
    path = viz.generate_training_plots(3, [3.0, float("nan"), 2.0, 1.0], {}, resumes=[1])
    assert is_png(path)
    assert all(is_png(path) for path in viz.generate_model_plots(3, WaveModel()))
    assert is_png(viz.generate_comparison_plots([{"name": "a", "loss_history": [2.0, 1.0]}]))
    assert len(list(tmp_path.iterdir())) == 6


def test_a_program_may_change_its_directory_between_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viz = VisualizationManager("plots")
    for place in (tmp_path / "a", tmp_path / "b"):
        place.mkdir()
        monkeypatch.chdir(place)
        assert viz.generate_training_plots(1, [3.0, 2.0]) == Path(
            "plots/training_dynamics_step_1.png"
        )
        assert is_png(place / "plots" / "training_dynamics_step_1.png")


def test_every_thread_finds_its_plot_written(tmp_path: Path) -> None:
    viz = VisualizationManager(tmp_path)
    written: list[bool] = []

    def plot(step: int) -> None:
        written.append(is_png(viz.generate_training_plots(step, [3.0, 2.0])))

    threads = [threading.Thread(target=plot, args=(step,)) for step in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written == [True] * 5


def test_a_program_keeps_its_own_matplotlib_and_its_forked_child_waits_for_its_own_plots(
    tmp_path: Path,
) -> None:
    script = (
        "import os, pathlib, sys\n"
        "from monitoring import VisualizationManager\n"
        "viz = VisualizationManager(sys.argv[1])\n"
        "viz.generate_training_plots(1, [3.0, 2.0])\n"
        "if (child := os.fork()) == 0:\n"
        "    os._exit(0 if viz.generate_training_plots(2, [3.0, 2.0]).exists() else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert viz.generate_training_plots(3, [3.0, 2.0]).exists()\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)


def test_a_drawing_process_that_hangs_holds_a_call_for_so_long_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    viz = VisualizationManager(tmp_path)
    viz.generate_training_plots(1, [3.0, 2.0])
    process = shared_client()._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr("monitoring.plots.manager._CLOSING", 0.5)
    viz.generate_training_plots(2, [3.0, 2.0])
    assert process.wait(60) == -signal.SIGKILL
    [warning] = caplog.messages
    assert "step_2.png" in warning
    monkeypatch.undo()
    assert is_png(viz.generate_training_plots(3, [3.0, 2.0]))


def test_a_comparison_takes_curves_of_any_length(tmp_path: Path) -> None:
    viz = VisualizationManager(tmp_path)
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
    said = "Model does not have 'embedding' attribute, skipping model plots"
    assert warning.getMessage() == said, "as the specification has it"


def test_a_wrapped_and_an_incomplete_model_give_the_plots_they_can(tmp_path: Path) -> None:
    model = WaveModel()
    del model.embedding.harmonic_amps
    viz = VisualizationManager(tmp_path)
    paths = viz.generate_model_plots(5, nn.DataParallel(model))
    assert [path.name for path in paths] == ["frequencies_step_5.png", "phases_step_5.png"]
    assert all(is_png(path) for path in paths)


def test_plots_hold_what_the_model_was_at_the_call() -> None:
    from monitoring.plots.manager import _waves

    model = WaveModel()
    waves, _ = _waves(model)
    before = waves["base"].clone()
    with torch.no_grad():
        model.embedding.base_freqs.zero_()
    assert torch.equal(waves["base"], before)
    assert len(waves["base"]) <= 256


def test_a_failing_plot_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "viz").write_text("a file where the directory should be")
    VisualizationManager(tmp_path / "viz").generate_training_plots(1, [1.0, 2.0])
    [warning] = caplog.records
    assert "Failed to generate training_dynamics_step_1.png" in warning.getMessage()


def test_when_drawing_falls_behind_the_newest_wins(tmp_path: Path) -> None:
    viz = VisualizationManager(tmp_path, background=True)
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
    client = PlotClient()
    curve = {"curves": [], "resumes": [], "title": "x", "step": 1}

    def picture(name: str) -> Picture:
        loss = Curve("loss", np.arange(3.0), np.arange(3.0))
        return Picture("training_dynamics", tmp_path / name, lambda: {**curve, "curves": [loss]})

    client.submit(picture("a.png"))
    assert client.wait(120)
    assert client._process is not None
    os.kill(client._process.pid, signal.SIGKILL)
    client.submit(picture("b.png"))
    assert client.wait(120)
    assert "ended with code -9" in caplog.text
    client.submit(picture("c.png"))
    assert client.wait(120)
    assert is_png(tmp_path / "a.png")
    assert is_png(tmp_path / "c.png")
    assert client.close()


def test_the_drawing_process_ends_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from monitoring import VisualizationManager\n"
        "viz = VisualizationManager(sys.argv[1], background=True)\n"
        "viz.generate_training_plots(9, [3.0, 2.0, 1.0])\n"
        "viz.wait()\n"
        "print(viz._client._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=False, capture_output=True, timeout=120
    )
    drawing = Path("/proc") / parent.stdout.decode().strip() / "cmdline"
    deadline = time.monotonic() + 20
    while drawing.exists() and b"monitoring.plots.server" in drawing.read_bytes():
        assert time.monotonic() < deadline


def test_resumes_that_the_logger_noted_are_marked(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    lines = [json.dumps({"step": step}) for step in (-1, 300, 700)]
    (tmp_path / "logs" / "resumes.jsonl").write_text("\n".join([*lines, "torn"]))
    assert list(_noted_resumes(RunPaths(tmp_path))) == [Resume(300), Resume(700)]


def test_plots_are_due_at_the_interval_and_never_at_step_0(tmp_path: Path) -> None:
    viz = VisualizationManager(tmp_path, viz_interval=5)
    assert [step for step in range(11) if viz.should_visualize(step)] == [5, 10]
    with pytest.raises(ValueError, match="at least 1"):
        VisualizationManager(tmp_path, viz_interval=0)


def test_a_history_converts_only_what_is_new_and_notices_another_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    converted: list[int] = []

    def noted(values: Any) -> curves.Array:
        converted.append(len(values))
        return numbers(values)

    monkeypatch.setattr(curves, "numbers", noted)
    history = History()
    values: list[Any] = [float(n) for n in range(25_000)]
    first = history.update(values)
    values += [None, ..., torch.tensor(3.0)]
    second = history.update(values)
    values.append(7.0)  # after the plot was asked for
    before = first()
    assert np.array_equal(before, np.arange(25_000.0))
    assert np.array_equal(second()[:25_000], before)
    assert np.isnan(second()[25_000:25_002]).all()
    assert second()[25_002:].tolist() == [3.0]
    assert np.array_equal(first(), before)
    converted.clear()
    assert history.update(values)()[-1] == 7.0
    assert converted == [1]
    assert history.update([9.0, 8.0])().tolist() == [9.0, 8.0]
    assert before[0] == 0.0  # an array that was given out stays what it is


def test_smoothing_follows_the_curve_and_leaves_clean_ones_alone() -> None:
    steps = np.arange(5000.0)
    clean = 4 + 4 * np.exp(-steps / 900)
    noisy = clean + np.random.default_rng(0).normal(0, 0.2, 5000)
    noisy[2500] = np.nan
    assert np.abs(smooth(noisy) - clean).max() < 0.25
    assert np.abs(smooth(noisy) - clean).mean() < 0.03
    assert smooth(clean) is clean


@pytest.mark.parametrize("value", [3e-4, 0.1, 0.9, 1 / 3, 1234567.0, 0.0])
def test_smoothing_invents_nothing_where_a_curve_is_constant(value: float) -> None:
    constant = np.full(300, value)
    assert smooth(constant) is constant
    rounded = np.where(np.arange(300) % 2, value, value * (1 + 2.0**-24))
    assert smooth(rounded) is rounded  # as float32 would round it


class Embedding:
    """Whatever somebody calls so."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class AnyModel:
    def __init__(self, **attributes: Any) -> None:
        self.embedding = Embedding(**attributes)


Call = Callable[[VisualizationManager], Any]
TAKEN: dict[str, Call] = {
    "a deque": lambda viz: viz.generate_training_plots(9, deque([3.0, 2.0], maxlen=9)),
    "a deque as metric": lambda viz: viz.generate_training_plots(9, [3.0], {"x": deque([1, 2])}),
    "tensors with gradients": lambda viz: viz.generate_training_plots(
        9, [torch.tensor(1.0, requires_grad=True), torch.tensor(2.0)]
    ),
    "a tensor with gradients": lambda viz: viz.generate_training_plots(
        9, torch.ones(5, dtype=torch.bfloat16, requires_grad=True)
    ),
    "a huge integer": lambda viz: viz.generate_training_plots(9, [3, 10**400, -(10**400)]),
    "values that are none": lambda viz: viz.generate_training_plots(9, [None, 1.0, object()]),
    "single tensors": lambda viz: viz.generate_training_plots(9, [1.0], {"x": torch.tensor(3.0)}),
    "waves as lists": lambda viz: viz.generate_model_plots(
        9, AnyModel(base_freqs=[[1.0, 2.0]], phases=np.ones((1, 2)))
    ),
    "no run to compare": lambda viz: viz.generate_comparison_plots([]),
}
REFUSED: dict[str, Call] = {
    "no history": lambda viz: viz.generate_training_plots(9, None),  # type: ignore[arg-type]
    "a generator": lambda viz: viz.generate_training_plots(9, (n for n in [1.0])),  # type: ignore[arg-type]
    "a table": lambda viz: viz.generate_training_plots(9, np.ones((3, 3))),  # type: ignore[arg-type]
    "a dict as metric": lambda viz: viz.generate_training_plots(9, [1.0], {"x": {"a": 1}}),
    "resumes at no step": lambda viz: viz.generate_training_plots(9, [1.0], resumes=["x"]),  # type: ignore[list-item]
    "no losses to compare": lambda viz: viz.generate_comparison_plots([{"name": "a"}]),
    "no name": lambda viz: viz.generate_comparison_plots([{"loss_history": [1.0, 2.0]}]),
    "no run": lambda viz: viz.generate_comparison_plots([3]),  # type: ignore[list-item]
    "waves of no tokens": lambda viz: viz.generate_model_plots(
        9, AnyModel(base_freqs=torch.zeros(0, 4))
    ),
    "waves in one row": lambda viz: viz.generate_model_plots(9, AnyModel(phases=[1, 2, 3])),
    "an embedding without waves": lambda viz: viz.generate_model_plots(
        9, AnyModel(weight=torch.ones(3))
    ),
}


@pytest.mark.parametrize("what", TAKEN)
def test_sequences_of_any_kind_are_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    TAKEN[what](VisualizationManager(tmp_path))
    assert caplog.messages == []
    assert all(is_png(path) for path in tmp_path.iterdir())
    assert any(tmp_path.iterdir())


@pytest.mark.parametrize("what", REFUSED)
def test_anything_else_is_one_warning_and_never_an_exception(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    REFUSED[what](VisualizationManager(tmp_path))
    assert len(caplog.messages) == 1


def test_a_deque_that_lost_its_first_values_is_read_afresh() -> None:
    history = History()
    kept = deque([1.0, 2.0, 1.0, 3.0, 1.0], maxlen=5)
    assert history.update(kept)().tolist() == [1, 2, 1, 3, 1]
    assert history.update(deque([1.0, 7.0, 1.0, 8.0, 1.0]))().tolist() == [1, 7, 1, 8, 1]


def test_a_forked_child_has_its_plots_drawn_and_leaves_the_parents_alone(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from monitoring import VisualizationManager\n"
        "viz = VisualizationManager(sys.argv[1], background=True)\n"
        "viz.generate_training_plots(1, [3.0, 2.0, 1.0])\n"
        "assert viz.wait(60)\n"
        "viz.generate_training_plots(2, [3.0, 2.0, 1.0])\n"
        "if (child := os.fork()) == 0:\n"
        "    assert viz.wait()\n"
        "    viz.generate_training_plots(3, [3.0, 2.0, 1.0])\n"
        "    os._exit(0 if viz.wait(60) and viz.close() else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "viz.generate_training_plots(4, [3.0, 2.0, 1.0])\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)
    assert is_png(tmp_path / "training_dynamics_step_3.png")
    assert is_png(tmp_path / "training_dynamics_step_4.png")


@pytest.mark.parametrize("busy", [True, False])
def test_a_drawing_process_that_hangs_is_killed_when_its_time_is_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    monkeypatch.setattr("monitoring.plots.client._ENDING", 1.0)
    viz = VisualizationManager(tmp_path, background=True)
    viz.generate_training_plots(1, [3.0, 2.0])
    assert viz.wait(120)
    assert viz._client is not None
    process = viz._client._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    if busy:
        viz.generate_training_plots(2, [3.0, 2.0])
    assert viz.close(0.5) is not busy
    assert process.wait(60) == -signal.SIGKILL
    assert len(caplog.messages) == busy
    if busy:
        assert "step_2.png" in caplog.text
        viz.generate_training_plots(3, [3.0, 2.0])
        assert viz.close()
        assert is_png(tmp_path / "training_dynamics_step_3.png")


def test_closing_has_a_limit_unless_another_is_given() -> None:
    from inspect import signature

    assert signature(VisualizationManager.close).parameters["seconds"].default == 60


def test_a_manager_that_is_dropped_finishes_its_plots_and_is_gone(
    tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    viz = VisualizationManager(tmp_path, background=True)
    viz.generate_training_plots(1, [3.0, 2.0, 1.0])
    viz.generate_comparison_plots([])
    assert viz._client is not None
    client, dropped = viz._client, weakref.ref(viz)
    del viz
    gc.collect()
    assert dropped() is None
    wait_until(lambda: client._thread and not client._thread.is_alive(), what="the thread's end")
    assert client._process is None
    assert len([path for path in tmp_path.iterdir() if is_png(path)]) == 2


def test_a_program_that_ends_finishes_its_plots_also_those_asked_for_at_the_very_end(
    tmp_path: Path,
) -> None:
    script = (
        "import atexit, sys\n"
        "asked = []\n"
        "atexit.register(lambda: asked[0].generate_training_plots(4, [3.0, 2.0]))\n"
        "from monitoring import VisualizationManager\n"
        "viz = VisualizationManager(sys.argv[1], background=True)\n"
        "viz.generate_training_plots(1, [3.0, 2.0])\n"
        "viz = VisualizationManager(sys.argv[1], background=True)\n"
        "viz.generate_training_plots(2, [3.0, 2.0])\n"
        "viz.close()\n"
        "asked.append(viz)\n"
        "atexit.register(lambda: viz.generate_comparison_plots([]))\n"
        "viz.generate_training_plots(3, [3.0, 2.0])\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)
    drawn = {path.name for path in tmp_path.iterdir() if is_png(path)}
    assert drawn == {
        *(f"training_dynamics_step_{step}.png" for step in (1, 2, 3, 4)),
        "experiment_comparison.png",
    }


def test_the_drawing_process_outlives_a_stop_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    viz = VisualizationManager(tmp_path)
    viz.generate_training_plots(1, [3.0, 2.0])
    process = shared_client()._process
    assert process is not None
    for stop in (signal.SIGTERM, signal.SIGINT):
        os.kill(process.pid, stop)
    assert is_png(viz.generate_training_plots(2, [3.0, 2.0]))
    assert shared_client()._process is process
    assert caplog.messages == []


class Loud:
    """A title that prints when it gets to the drawing process, past Python's own buffers."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("__import__('os').write(1, b'a library says hello') and 'a title'",)


def test_what_a_library_prints_is_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    client = PlotClient()
    for number in range(2):
        path = tmp_path / f"{number}.png"
        loss = Curve("loss", np.arange(3.0), np.arange(3.0))
        given = {"curves": [loss], "resumes": [], "title": Loud(), "step": 1}
        client.submit(Picture("training_dynamics", path, lambda given=given: given))  # type: ignore[misc]
        assert client.wait(120)
        assert is_png(path)
    assert caplog.messages == []
    assert client.close()
    assert "a library says hello" in capfd.readouterr().err


def test_the_drawing_process_lets_go_of_what_it_drew(tmp_path: Path) -> None:
    viz = VisualizationManager(tmp_path)

    def memory_after(step: int) -> int:
        viz.generate_training_plots(step, [3.0, 2.0])
        process = shared_client()._process
        assert process is not None
        statm = Path(f"/proc/{process.pid}/statm").read_text()
        return int(statm.split()[1]) * os.sysconf("SC_PAGESIZE")

    first = [memory_after(step) for step in range(4)][-1]
    last = [memory_after(step) for step in range(8)][-1]
    assert last - first < 8 << 20
