"""What survives when the training process is killed at a random instant."""

import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest
import torch

from monitoring import CheckpointManager, MetricsLogger
from monitoring.checkpoints import commit
from monitoring.checkpoints import manager as checkpoints_manager
from monitoring.paths import step_of


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [25, pytest.param(200, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(
    ("mode", "keep", "again"),
    [("sync", 3, False), ("async", 3, False), ("direct", 3, False), ("sync", 1, True)],
    ids=["sync", "async", "direct", "the same step again, and nothing else kept"],
)
def test_a_kill_at_any_instant_of_a_save_leaves_a_loadable_latest_checkpoint(
    tmp_path: Path, mode: str, keep: int, kills: int, *, again: bool
) -> None:
    # What is slow the first time is done before the children are forked from here.
    torch.optim.SGD(torch.nn.Linear(1, 1).parameters())
    reached, caught_in_the_middle = -1, 0
    dice = random.Random(7)
    for _ in range(kills):
        child, saved = fork(lambda say: keep_saving(tmp_path, mode, keep, again=again, say=say))
        assert saved.read(5) == b"saved"
        time.sleep(dice.uniform(0, 0.03))  # no wait for something: the random instant
        kill(child)
        saved.close()
        checkpoints = tmp_path / "checkpoints"
        caught_in_the_middle += any(path.name.startswith(".") for path in checkpoints.iterdir())
        # Before a load, which would mend it.
        assert (checkpoints / "checkpoint_latest.pt").resolve(strict=True).suffix == ".pt"
        checkpoint = CheckpointManager(tmp_path).load_latest_checkpoint()
        assert checkpoint is not None
        assert not list(checkpoints.glob("*.corrupt"))
        assert checkpoint["step"] >= reached
        reached = checkpoint["step"]
        assert bool((checkpoint["model_state_dict"]["weight"] == reached).all())
    assert caught_in_the_middle > kills // 10  # many did hit a save


def keep_saving(root: Path, mode: str, keep: int, *, again: bool, say: int) -> NoReturn:
    """Saves as fast as it can: every checkpoint holds its step in every number of a tensor."""
    torch.set_num_threads(1)
    if mode == "direct":
        checkpoints_manager._LARGE = 0
    model = torch.nn.Linear(200, 200)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    manager = CheckpointManager(root, keep_last_n=keep, async_save=mode != "sync")
    latest = manager.load_latest_checkpoint()
    step = 0 if latest is None else latest["step"]
    torch.nn.init.constant_(model.weight, step)
    model.weight.grad = torch.full_like(model.weight, -1.0)
    said = False
    while True:
        if not again:
            step += 1
            optimizer.step()
        manager.save_checkpoint(step, model, optimizer, [float(step)], {})
        if not said:
            manager.wait()
            said = os.write(say, b"saved") > 0


def fork(program: Callable[[int], object]) -> tuple[int, BinaryIO]:
    """The process id of a program, and what it writes to the descriptor that it is given."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, os.fdopen(reading, "rb")
    try:
        os.close(reading)
        program(writing)
    finally:
        os._exit(1)


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize("again", [False, True], ids=["steps", "the same step, nothing else kept"])
def test_a_kill_before_any_file_operation_of_a_save_leaves_latest_on_a_good_checkpoint(
    tmp_path: Path, *, again: bool
) -> None:
    begun, keep, step = tmp_path / "begun", 1 if again else 2, 3 - again
    for number in (1, 2):
        save_step(CheckpointManager(begun, keep_last_n=keep), number)
    for kills in itertools.count():
        root = tmp_path / str(kills)
        shutil.copytree(begun, root, symlinks=True)
        manager = CheckpointManager(root, keep_last_n=keep)
        child = os.fork()
        if child == 0:
            kill_before_operation(kills)
            save_step(manager, step)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        # Before a load, which would mend it.
        latest = manager.latest_symlink.resolve(strict=True)
        assert step_of(latest) in (2, step)
        commit.verify(latest)
        checkpoint = manager.load_latest_checkpoint()
        assert checkpoint is not None
        assert checkpoint["step"] in (2, step)
        assert not list(manager.checkpoint_dir.glob("*.corrupt"))
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
    assert kills > 10  # files opened, renamed, linked and removed


def save_step(manager: CheckpointManager, step: int) -> None:
    model = torch.nn.Linear(4, 4)
    assert manager.save_checkpoint(step, model, torch.optim.SGD(model.parameters()), [], {})


def kill_before_operation(number: int) -> None:
    """Let this process be killed when it is about to touch a file for so many times + 1."""
    done = itertools.count()

    def watch(event: str, _: object) -> None:
        if event in {"open", "os.rename", "os.symlink", "os.remove"} and next(done) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def keep_logging(logs: Path, writer: int, say: int) -> NoReturn:
    logger = MetricsLogger(logs)
    for step in itertools.count():
        logger.log_metrics(step, {"loss": step / 7, "writer": writer})
        os.write(say, b"%d\n" % step)
    raise AssertionError


def test_a_killed_process_loses_no_metric_row(tmp_path: Path) -> None:
    for _ in range(10):
        logs = tmp_path / str(_)
        child, lines = fork(partial(keep_logging, logs, 0))
        for _line in range(random.Random(_).randint(1, 3000)):
            lines.readline()
        kill(child)
        said = lines.read().split(b"\n")[:-1]
        lines.close()
        rows = MetricsLogger(logs).load_metrics()
        assert [row["step"] for row in rows] == list(range(len(rows)))
        assert len(rows) > (int(said[-1]) if said else 0)  # every row it said it had logged
        assert all(row["loss"] == row["step"] / 7 for row in rows)
        text = (logs / "training.log").read_text().splitlines()
        assert len(rows) - len(text) in (0, 1)


def test_several_writers_lose_and_tear_no_row(tmp_path: Path) -> None:
    children = [fork(partial(keep_logging, tmp_path, number)) for number in range(4)]
    reached = []
    for _, lines in children:
        for _ in range(2000):
            line = lines.readline()
        reached.append(int(line))
    for child, lines in children:
        kill(child)
        lines.close()
    steps: dict[int, list[int]] = {}
    for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines():
        row = json.loads(line)
        steps.setdefault(row["writer"], []).append(row["step"])
    for writer, last in enumerate(reached):
        assert steps[writer][: last + 1] == list(range(last + 1))
