"""CheckpointManager: complete state, whole or not at all, the newest good one first."""

import logging
import random
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from monitoring import CheckpointManager, restore_rng_state
from monitoring.checkpoints import commit
from monitoring.paths import RunPaths, commit_record


class Net(nn.Module):
    """Tied weights, statistics that a forward pass changes, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.dropout(self.norm(self.embedding(tokens))))
        return out


class Training:
    """A model, its optimizer and its schedule, a step at a time."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Net()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 5, 0.5)
        self.losses: list[float] = []

    def step(self) -> None:
        tokens = torch.randint(0, 11, (16,))
        loss = nn.functional.cross_entropy(self.model(tokens), tokens.roll(1))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.losses.append(loss.item())

    def save(self, manager: CheckpointManager, step: int, **more: Any) -> str | None:
        config = {"lr": 1e-2}
        return manager.save_checkpoint(
            step, self.model, self.optimizer, self.losses, config, scheduler=self.scheduler, **more
        )

    def load(self, checkpoint: dict[str, Any]) -> None:
        self.model.load_state_dict(checkpoint["model_state_dict"])
        self.optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
        self.scheduler.load_state_dict(checkpoint["scheduler_state_dict"])
        self.losses = checkpoint["loss_history"]
        restore_rng_state(checkpoint["rng_state"])


@pytest.fixture
def training() -> Training:
    training = Training()
    training.step()
    return training


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointManager:
    return CheckpointManager(tmp_path, async_save=request.param)


def names(manager: CheckpointManager) -> set[str]:
    return {path.name for path in manager.checkpoint_dir.iterdir()}


def test_a_checkpoint_holds_everything(manager: CheckpointManager, training: Training) -> None:
    scaler = torch.amp.GradScaler("cpu")
    path = training.save(manager, 5, scaler=scaler, extra={"epoch": 2})
    assert manager.wait()
    assert path is not None
    assert Path(path).exists()
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    assert set(checkpoint) == {
        "step", "model_state_dict", "optimizer_state_dict", "loss_history", "config", "timestamp",
        "git_hash", "rng_state", "scheduler_state_dict", "scaler_state_dict", "extra",
    }  # fmt: skip
    assert checkpoint["step"] == 5
    assert checkpoint["loss_history"] == training.losses
    assert checkpoint["config"] == {"lr": 1e-2}
    assert checkpoint["extra"] == {"epoch": 2}
    for name, tensor in training.model.state_dict().items():
        assert torch.equal(checkpoint["model_state_dict"][name], tensor)


def test_a_resumed_run_has_the_same_losses_in_all_digits(
    manager: CheckpointManager, training: Training
) -> None:
    training.save(manager, 0)
    for _ in range(10):
        training.step()
    resumed = Training()
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    resumed.load(checkpoint)
    for _ in range(10):
        resumed.step()
    assert resumed.losses == training.losses
    for name, tensor in training.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor)


def test_every_generator_goes_on_where_it_was(
    manager: CheckpointManager, training: Training
) -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.rand()), torch.rand(1).item()]

    draw()
    training.save(manager, 1)
    expected = [draw(), draw()]
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    restore_rng_state(checkpoint["rng_state"])
    assert [draw(), draw()] == expected


def test_an_asynchronous_save_holds_the_state_of_its_step(
    tmp_path: Path, training: Training
) -> None:
    manager = CheckpointManager(tmp_path, async_save=True, keep_last_n=100)
    weights: list[torch.Tensor] = []
    for step in range(30):
        training.save(manager, step)
        weights.append(training.model.head.weight.detach().clone())
        training.step()  # changes the weights while the save is under way
    manager.close()
    for step, expected in enumerate(weights):
        checkpoint = manager.load_checkpoint(step)
        assert checkpoint is not None
        assert torch.equal(checkpoint["model_state_dict"]["head.weight"], expected)
        assert len(checkpoint["loss_history"]) == step + 1


def test_an_asynchronous_save_follows_a_state_that_changes_its_shape(
    tmp_path: Path, training: Training
) -> None:
    manager = CheckpointManager(tmp_path, async_save=True)
    for step, size in enumerate([3, 1000, 0, 7]):
        training.save(
            manager, step, extra={"queue": torch.arange(size), "view": torch.ones(9)[2:4]}
        )
        checkpoint = manager.load_checkpoint(step)
        assert checkpoint is not None
        assert torch.equal(checkpoint["extra"]["queue"], torch.arange(size))
        assert torch.equal(checkpoint["extra"]["view"], torch.ones(2))


def test_tied_weights_are_saved_once(manager: CheckpointManager) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(256, 256, bias=False)
            self.two = nn.Linear(256, 256, bias=False)
            self.two.weight = self.one.weight

    model = Tied()
    path = manager.save_checkpoint(1, model, torch.optim.SGD(model.parameters()), [], {})
    manager.wait()
    assert path is not None
    assert Path(path).stat().st_size < 1.5 * model.one.weight.nbytes


def test_a_view_is_saved_without_the_storage_behind_it(
    manager: CheckpointManager, training: Training
) -> None:
    path = training.save(manager, 1, extra={"view": torch.zeros(1_000_000)[:4]})
    manager.wait()
    assert path is not None
    assert Path(path).stat().st_size < 500_000


def test_checkpoints_are_due_at_the_interval_and_never_at_step_0(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, save_interval=3)
    assert [step for step in range(10) if manager.should_checkpoint(step)] == [3, 6, 9]


def test_checkpoints_are_due_when_the_last_is_too_old(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, save_interval=1000, save_seconds=0.0)
    assert manager.should_checkpoint(1)
    assert not manager.should_checkpoint(0)


def test_latest_points_at_the_newest_and_old_ones_are_removed(
    manager: CheckpointManager, training: Training
) -> None:
    for step in range(1, 6):
        training.save(manager, step)
    manager.wait()
    assert manager.latest_symlink.readlink() == Path("checkpoint_step_5.pt")
    assert names(manager) == {
        *(f"checkpoint_step_{step}.pt" for step in (3, 4, 5)),
        *(f"checkpoint_step_{step}.pt.json" for step in (3, 4, 5)),
        "checkpoint_latest.pt",
    }


def test_retention_spares_the_one_marked_best(
    manager: CheckpointManager, training: Training
) -> None:
    for step in range(1, 8):
        training.save(manager, step)
        if step in (1, 2):
            manager.mark_best(step)
    manager.wait()
    assert [item["step"] for item in manager.list_checkpoints()] == [2, 5, 6, 7]
    best = manager.load_checkpoint(2)
    assert best is not None


def test_a_run_started_again_keeps_its_new_checkpoints(tmp_path: Path, training: Training) -> None:
    old = CheckpointManager(tmp_path)
    for step in (7000, 8000, 9000):
        training.save(old, step)
    new = CheckpointManager(tmp_path)
    training.save(new, 1000)
    assert [item["step"] for item in new.list_checkpoints()] == [1000, 8000, 9000]
    latest = new.load_latest_checkpoint()
    assert latest is not None
    assert latest["step"] == 1000


def test_the_newest_is_the_last_committed_whatever_the_clock_says(
    tmp_path: Path, training: Training
) -> None:
    manager = CheckpointManager(tmp_path)
    training.save(manager, 1)
    path = RunPaths(tmp_path).checkpoint(1)
    record = commit.read(path)
    ahead = commit.CommitRecord(1, record.size, record.checksum, 0, record.time + 86400)
    commit.write(path, ahead)  # as if the machine before this one was a day ahead
    training.save(manager, 2)
    latest = manager.load_latest_checkpoint()
    assert latest is not None
    assert latest["step"] == 2


def test_the_list_names_steps_paths_sizes_and_times(
    manager: CheckpointManager, training: Training
) -> None:
    for step in (300, 100, 200):
        training.save(manager, step)
    manager.wait()
    listed = manager.list_checkpoints()
    assert [item["step"] for item in listed] == [100, 200, 300]
    for item in listed:
        assert set(item) == {"step", "path", "size_mb", "modified"}
        assert item["size_mb"] * 2**20 == Path(item["path"]).stat().st_size


def damage_torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def damage_record(path: Path) -> None:
    commit_record(path).write_bytes(b"\x00" * 100)


@pytest.mark.parametrize(
    "damage",
    [damage_torn, damage_bit, damage_empty, damage_zeros, damage_record],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_loaded(
    damage: Callable[[Path], None],
    tmp_path: Path,
    training: Training,
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = CheckpointManager(tmp_path)
    for step in (1, 2, 3):
        training.save(manager, step)
    newest = RunPaths(tmp_path).checkpoint(3)
    damage(newest)
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint["step"] == 2
    assert not newest.exists()
    assert newest.with_name("checkpoint_step_3.pt.corrupt").exists()
    [warning] = [record.getMessage() for record in caplog.records]
    assert "checkpoint_step_3.pt" in warning
    assert any(word in warning for word in ("bytes", "checksum", "commit record"))
    assert manager.load_checkpoint(3) is None


def test_with_nothing_good_there_is_nothing_to_load(tmp_path: Path, training: Training) -> None:
    manager = CheckpointManager(tmp_path)
    assert manager.load_latest_checkpoint() is None
    assert manager.load_checkpoint(1) is None
    training.save(manager, 1)
    damage_zeros(RunPaths(tmp_path).checkpoint(1))
    assert manager.load_latest_checkpoint() is None


def compiled(model: nn.Module) -> nn.Module:
    wrapped = torch.compile(model, backend="eager")
    assert isinstance(wrapped, nn.Module)
    return wrapped


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled])
def test_a_wrapped_model_saves_and_loads_the_plain_state(
    wrap: Callable[[nn.Module], nn.Module], manager: CheckpointManager, training: Training
) -> None:
    plain = training.model
    wrapped = wrap(plain)
    manager.save_checkpoint(1, wrapped, training.optimizer, [], {})
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    assert set(checkpoint["model_state_dict"]) == set(plain.state_dict())
    Net().load_state_dict(checkpoint["model_state_dict"])
    fresh = wrap(Net())
    fresh.load_state_dict(checkpoint["model_state_dict"])
    inner = next(fresh.children())
    assert isinstance(inner, Net)
    assert torch.equal(inner.head.weight, plain.head.weight)
    wrapped.load_state_dict(wrapped.state_dict())  # its own state is taken as before


def test_a_distributed_model_saves_the_plain_state(tmp_path: Path, training: Training) -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(training.model)
        manager = CheckpointManager(tmp_path)
        manager.save_checkpoint(1, wrapped, training.optimizer, [], {})
        checkpoint = manager.load_latest_checkpoint()
        assert checkpoint is not None
        assert set(checkpoint["model_state_dict"]) == set(Net().state_dict())
        wrapped.load_state_dict(checkpoint["model_state_dict"])
    finally:
        torch.distributed.destroy_process_group()


@dataclass
class Settings:
    lr: float
    path: Path


def test_configs_of_every_usual_kind_load_safely(
    manager: CheckpointManager, training: Training
) -> None:
    config = {
        "settings": Settings(0.1, Path("/data")),
        "arguments": Namespace(layers=3, name="x"),
        "numpy": np.float32(0.5),
        "array": np.arange(3),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "shape": torch.zeros(2, 3).shape,
        "nested": [(1, {"a": None}), {2.5}],
    }
    manager.save_checkpoint(1, training.model, training.optimizer, [np.float64(1.5)], config)
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint["loss_history"] == [1.5]
    loaded = checkpoint["config"]
    assert loaded.pop("array").tolist() == [0, 1, 2]
    assert loaded == {
        "settings": {"lr": 0.1, "path": "/data"},
        "arguments": {"layers": 3, "name": "x"},
        "numpy": 0.5,
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "shape": torch.Size([2, 3]),
        "nested": [(1, {"a": None}), {2.5}],
    }


class Vocabulary:
    """A class of the user's own."""

    def __init__(self, words: list[str]) -> None:
        self.words = words


def test_state_that_no_safe_load_takes_is_refused_when_saving(
    manager: CheckpointManager, training: Training
) -> None:
    with pytest.raises(TypeError, match=r"state\['extra'\]\['vocabulary'\].*allowed_types"):
        training.save(manager, 1, extra={"vocabulary": Vocabulary(["a"])})


def test_types_allowed_by_name_come_back(tmp_path: Path, training: Training) -> None:
    manager = CheckpointManager(tmp_path, allowed_types=[Vocabulary])
    training.save(manager, 1, extra={"vocabulary": Vocabulary(["a"])})
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint["extra"]["vocabulary"].words == ["a"]


def test_a_checkpoint_from_elsewhere_cannot_run_code(tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (witness,))

    manager = CheckpointManager(tmp_path)
    path = RunPaths(tmp_path).checkpoint(1)
    torch.save({"step": 1, "x": Attack()}, path)
    size, checksum = path.stat().st_size, commit.checksum(path, "crc32")
    commit.write(path, commit.CommitRecord(1, size, checksum, 0, 1.0))
    with pytest.raises(Exception, match="Weights only load failed"):
        manager.load_latest_checkpoint()
    assert not witness.exists()
    assert path.exists()  # it is as it was written: a person decides


def test_a_busy_writer_lets_the_next_save_skip(
    tmp_path: Path, training: Training, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(tmp_path, async_save=True, when_busy="skip", keep_last_n=100)
    big = {"ballast": torch.zeros(20_000_000)}
    saved = [step for step in range(8) if training.save(manager, step, extra=big) is not None]
    manager.close()
    assert [item["step"] for item in manager.list_checkpoints()] == saved
    assert 0 in saved
    assert len(saved) < 8
    messages = [record.getMessage() for record in caplog.records]
    assert all("skipped while" in message for message in messages)
    assert len(messages) == len(set(messages)), "each is said once"


def test_an_error_in_the_background_shows_at_the_next_call(
    tmp_path: Path, training: Training
) -> None:
    class Hidden(dict):  # type: ignore[type-arg]
        """Looks plain, and fails only when it is pickled."""

        def __reduce_ex__(self, protocol: Any) -> Any:
            raise RuntimeError("cannot be pickled")

    manager = CheckpointManager(tmp_path, async_save=True, allowed_types=[Vocabulary])
    vocabulary = Vocabulary([])
    vocabulary.words = Hidden()  # type: ignore[assignment]
    Hidden.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    assert training.save(manager, 1, extra={"v": vocabulary}) is not None
    with pytest.raises(RuntimeError, match="cannot be pickled"):
        training.save(manager, 2)
    assert training.save(manager, 3) is not None
    manager.close()
    assert [item["step"] for item in manager.list_checkpoints()] == [3]


def test_a_wrapper_made_before_this_library_was_imported_takes_the_plain_state() -> None:
    script = (
        "import torch\n"
        "from torch import nn\n"
        "model = nn.Linear(2, 2)\n"
        "wrappers = [nn.DataParallel(model), torch.compile(model, backend='eager')]\n"
        "plain = model.state_dict()\n"
        "from monitoring import CheckpointManager\n"
        "for wrapper in wrappers: wrapper.load_state_dict(plain)\n"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_word_or_a_step_that_is_none_is_refused(tmp_path: Path, training: Training) -> None:
    with pytest.raises(ValueError, match='when_busy must be "wait" or "skip", not \'drop\''):
        CheckpointManager(tmp_path, when_busy="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be 0 or more, not -1"):
        training.save(CheckpointManager(tmp_path), -1)


def test_impossible_intervals_are_refused(tmp_path: Path) -> None:
    for arguments in ({"save_interval": 0}, {"keep_last_n": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            CheckpointManager(tmp_path, **arguments)


def test_a_failed_save_is_one_warning_and_the_next_tries_again(
    manager: CheckpointManager, training: Training, caplog: pytest.LogCaptureFixture
) -> None:
    directory = manager.checkpoint_dir
    aside = directory.with_name("elsewhere")
    directory.rename(aside)
    directory.write_text("a file where the directory was")
    training.save(manager, 1)
    assert not manager.wait() or len(caplog.records) == 1
    [warning] = caplog.records
    assert warning.levelno == logging.WARNING
    assert "skipped" in warning.getMessage()
    directory.unlink()
    aside.rename(directory)
    training.save(manager, 2)
    assert manager.wait()
    assert [item["step"] for item in manager.list_checkpoints()] == [2]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_manager_made_while_the_storage_is_away_saves_once_it_is_back(
    tmp_path: Path, training: Training, *, asynchronous: bool
) -> None:
    root = tmp_path / "volume" / "run"
    root.parent.write_text("a file where the volume will be")
    manager = CheckpointManager(root, async_save=asynchronous)
    training.save(manager, 1)
    manager.wait()
    root.parent.unlink()
    training.save(manager, 2)
    assert manager.wait()
    assert [item["step"] for item in manager.list_checkpoints()] == [2]


def test_a_save_makes_the_directory_that_somebody_removed(
    manager: CheckpointManager, training: Training
) -> None:
    training.save(manager, 1)
    manager.wait()
    shutil.rmtree(manager.checkpoint_dir)
    training.save(manager, 2)
    assert manager.wait()
    assert names(manager) == {
        "checkpoint_step_2.pt", "checkpoint_step_2.pt.json", "checkpoint_latest.pt"
    }  # fmt: skip
