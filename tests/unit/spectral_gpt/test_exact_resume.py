"""An interrupted run ends with the bits of one that never was."""

import itertools
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from monitoring import CheckpointManager
from monitoring.paths import RunPaths
from spectral_gpt.__main__ import main
from spectral_gpt.config import TrainConfig
from spectral_gpt.errors import ResumeError
from spectral_gpt.train import FINISHED, STOPPED, Trainer
from tests.forked import Forked

CASES = list(itertools.product(["standard", "wave"], ["adamw", "rgd"], ["ce", "qfe"]))
# Half of them, with each pair of choices once; a kill is no matter of all three together.
PAIRS = [
    case if sum(word in {"wave", "rgd", "qfe"} for word in case) % 2
    else pytest.param(*case, marks=pytest.mark.thorough)
    for case in CASES
]  # fmt: skip
TEXT = "".join(f"{n} squared is {n * n}.\n" for n in range(400))
STEPS = 12


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def tiny(text: Path, model: str, optimizer: str, loss: str, **changes: Any) -> TrainConfig:
    sizes = {"d_model": 16, "num_layers": 1, "num_heads": 2, "num_waves": 4, "num_harmonics": 2}
    settings = {
        "model": {"type": model, "block_size": 16, "dropout": 0.1, **sizes},
        "optimizer": {"name": optimizer, "warmup_steps": 3, "resonance_warmup": 6},
        "loss": {"name": loss},
        "dataset": {"name": "path", "location": str(text)},
        "steps": STEPS,
        "batch_size": 2,
        "gradient_accumulation": 2,
        "log_every": 1,
        "eval_every": 5,
        "eval_batches": 1,
        "sample_tokens": 0,
        "checkpoint": {"every_steps": 4},
    }
    return TrainConfig.from_dict(settings | changes)


def run(config: TrainConfig, run_dir: Path, stop: Callable[[], bool] = lambda: False) -> int:
    """`train` without plots, which take seconds and no part in this."""
    trainer = Trainer(config, run_dir)
    trainer.plot = lambda step: None  # type: ignore[method-assign]
    trainer.resume()
    status = trainer.run(stop)
    trainer.checkpoints.close()
    trainer.metrics.close()
    return status


def stop_before(step: int) -> Callable[[], bool]:
    """A stop request that the loop sees at its (step + 1)th boundary."""
    boundaries = itertools.count()
    return lambda: next(boundaries) >= step


def losses(run_dir: Path) -> dict[int, tuple[float, float | None]]:
    rows = [json.loads(line) for line in RunPaths(run_dir).metrics.read_text().splitlines()]
    curve = {row["step"]: (row["loss"], row.get("val_loss")) for row in rows}
    assert len(curve) == len(rows), "a step is logged twice"
    return curve


def final(run_dir: Path) -> dict[str, Any]:
    checkpoint = CheckpointManager(run_dir).load_latest_checkpoint()
    assert checkpoint is not None
    return checkpoint


def same(a: Any, b: Any) -> bool:
    """Equal in every bit, down to the last tensor."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize(("model", "optimizer", "loss"), CASES)
def test_a_run_stopped_anywhere_ends_like_one_that_never_was(
    tmp_path: Path, text: Path, model: str, optimizer: str, loss: str
) -> None:
    config = tiny(text, model, optimizer, loss)
    assert run(config, tmp_path / "whole") == FINISHED

    stops = random.Random(f"{model} {optimizer} {loss}").sample(range(1, STEPS), 2)
    for step in sorted(stops):
        done = RunPaths(tmp_path / "parts")
        before = final(done.root)["step"] + 1 if done.checkpoints.exists() else 0
        torch.manual_seed(step)  # whatever state another process starts in
        assert run(config, done.root, stop_before(step - before)) == STOPPED
        assert final(done.root)["step"] == step - 1
    assert run(config, tmp_path / "parts") == FINISHED

    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert len(whole["loss_history"]) == STEPS
    for part in ("model_state_dict", "optimizer_state_dict", "loss_history", "rng_state"):
        assert same(whole[part], parts[part]), f"{part} differs after stops before {stops}"


@pytest.mark.parametrize(("model", "optimizer", "loss"), PAIRS)
def test_a_run_killed_anywhere_ends_like_one_that_never_was(
    tmp_path: Path, text: Path, model: str, optimizer: str, loss: str
) -> None:
    config = tiny(text, model, optimizer, loss, checkpoint={"every_steps": 2})
    assert run(config, tmp_path / "whole") == FINISHED

    dice = random.Random(f"{model} {optimizer} {loss}")
    killed = sum(
        run_killed(config, tmp_path / "parts", dice.randint(1, 4), dice.uniform(0, 0.004))
        for _ in range(4)
    )
    assert killed > 1
    assert run(config, tmp_path / "parts") == FINISHED

    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    for part in ("model_state_dict", "optimizer_state_dict", "loss_history"):
        assert same(whole[part], parts[part]), f"{part} differs after {killed} kills"
    assert same(whole["rng_state"]["torch"], parts["rng_state"]["torch"])


def run_killed(config: TrainConfig, run_dir: Path, boundary: int, seconds: float) -> bool:
    """Run in a process that is killed so long after a step boundary; False where it ended first."""
    child = os.fork()
    if child == 0:
        try:
            torch.manual_seed(boundary)  # whatever state another process starts in
            boundaries = itertools.count()

            def arm() -> bool:
                # No handler and no clean-up: as SIGKILL, but by the kernel's clock.
                if next(boundaries) == boundary:
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)
                    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
                return False

            run(config, run_dir, arm)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGALRM


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stop_right_after_a_save_that_came_to_nothing_saves_again(
    tmp_path: Path, text: Path, *, asynchronous: bool
) -> None:
    trainer = Trainer(tiny(text, "standard", "adamw", "ce"), tmp_path)
    trainer.checkpoints = CheckpointManager(tmp_path, save_interval=4, async_save=asynchronous)
    checkpoints = trainer.checkpoints.checkpoint_dir
    boundaries = itertools.count()

    def stop() -> bool:
        boundary = next(boundaries)
        if boundary == 4:  # the save of step 4 finds a file where its directory was
            checkpoints.rename(tmp_path / "aside")
            checkpoints.touch()
        if boundary == 5:
            while (save := trainer.checkpoints._save) is not None and not save.done:
                time.sleep(0.001)
            checkpoints.unlink()
            (tmp_path / "aside").rename(checkpoints)
        return boundary == 5

    trainer.plot = lambda step: None  # type: ignore[method-assign]
    trainer.resume()
    assert trainer.run(stop) == STOPPED
    assert final(tmp_path)["step"] == 4


def test_a_finished_run_that_is_started_again_computes_nothing(tmp_path: Path, text: Path) -> None:
    config = tiny(text, "wave", "rgd", "qfe")
    run(config, tmp_path / "run")
    before = losses(tmp_path / "run")
    RunPaths(tmp_path / "run").results.unlink()
    assert run(config, tmp_path / "run") == FINISHED
    assert losses(tmp_path / "run") == before
    results = json.loads(RunPaths(tmp_path / "run").results.read_text())
    assert results["final_metrics"]["val_loss"] == before[STEPS - 1][1]


def test_a_resume_computes_with_the_threads_of_the_first_attempt(
    tmp_path: Path, text: Path
) -> None:
    config = tiny(text, "standard", "adamw", "ce")
    run(config, tmp_path / "run", stop_before(3))
    torch.set_num_threads(2)
    run(config, tmp_path / "run", stop_before(2))
    assert torch.get_num_threads() == 1


def test_a_resume_on_another_text_is_refused(tmp_path: Path, text: Path) -> None:
    config = tiny(text, "standard", "adamw", "ce")
    run(config, tmp_path / "run", stop_before(3))
    text.write_text(TEXT + "?")
    with pytest.raises(ResumeError, match="is not the one this run was trained on"):
        run(config, tmp_path / "run")


def test_a_resume_with_another_model_or_optimizer_is_refused(tmp_path: Path, text: Path) -> None:
    run(tiny(text, "standard", "adamw", "ce"), tmp_path / "run", stop_before(3))
    with pytest.raises(ResumeError, match=r"model\.type: standard → wave"):
        run(tiny(text, "wave", "adamw", "ce"), tmp_path / "run")
    with pytest.raises(ResumeError, match=r"optimizer\.name: adamw → rgd"):
        run(tiny(text, "standard", "rgd", "ce"), tmp_path / "run")


def test_more_steps_than_at_first_go_on_and_say_so(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny(text, "standard", "adamw", "ce"), tmp_path / "run")
    assert run(tiny(text, "standard", "adamw", "ce", steps=15), tmp_path / "run") == FINISHED
    assert "changed setting: steps: 12 → 15" in capsys.readouterr().out
    assert list(losses(tmp_path / "run")) == list(range(15))


# --- as a process -------------------------------------------------------------------------------


def start(config: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Forked:
    monkeypatch.setenv("SPECTRAIN_RUN_DIR", str(run_dir))
    monkeypatch.setattr(Trainer, "plot", lambda self, step: None)
    return Forked(lambda: main(["--config", str(config)]))


def wait_for_step(process: Forked, run_dir: Path, step: int) -> None:
    metrics = RunPaths(run_dir).metrics
    deadline = time.monotonic() + 60
    while not metrics.exists() or metrics.read_bytes().count(b"\n") <= step:
        assert time.monotonic() < deadline, f"no step {step} in time"
        assert process.poll() is None, process.stderr
        time.sleep(0.01)


def test_sigterm_and_sigkill_leave_the_curve_as_it_would_have_been(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(text, "wave", "rgd", "qfe", steps=120, checkpoint={"every_steps": 8})
    file, parts = tmp_path / "config.json", tmp_path / "parts"
    file.write_text(json.dumps(config.to_dict()))

    with start(file, parts, monkeypatch) as process:
        wait_for_step(process, parts, 10)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
        log = process.stdout
    stopped = final(parts)["step"]
    assert stopped == max(losses(parts))
    assert f"stop requested: ended after step {stopped}" in log

    with start(file, parts, monkeypatch) as process:
        wait_for_step(process, parts, stopped + 10)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        log = process.stdout
    assert f"resumed from step {stopped}\n" in log
    saved = final(parts)["step"]
    assert stopped < saved <= max(losses(parts))

    with start(file, parts, monkeypatch) as process:
        assert process.wait() == 0, process.stderr
        log = process.stdout
    assert f"resumed from step {saved}\n" in log

    run(config, tmp_path / "whole")
    assert losses(parts) == losses(tmp_path / "whole")
    assert same(final(parts)["model_state_dict"], final(tmp_path / "whole")["model_state_dict"])
