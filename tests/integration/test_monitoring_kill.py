"""What survives when the training process is killed at a random instant."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from monitoring import CheckpointManager, MetricsLogger
from monitoring.checkpoints import commit
from monitoring.paths import step_of

# Saves as fast as it can: every checkpoint holds its step in every number of a tensor.
SAVER = """
import os, sys, torch
from monitoring import CheckpointManager
from monitoring.checkpoints import manager as manager_module
torch.set_num_threads(1)
root, mode, (keep, again) = sys.argv[1], sys.argv[2], map(int, sys.argv[3:])
if mode == "direct":
    manager_module._LARGE = 0
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
        said = os.write(1, b"saved")
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [40, pytest.param(200, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(
    ("mode", "keep", "again"),
    [("sync", 3, 0), ("async", 3, 0), ("direct", 3, 0), ("sync", 1, 1)],
    ids=["sync", "async", "direct", "the same step again, and nothing else kept"],
)
def test_a_kill_at_any_instant_of_a_save_leaves_a_loadable_latest_checkpoint(
    tmp_path: Path, mode: str, keep: int, again: int, kills: int
) -> None:
    # What is slow the first time is done before the children are forked from here.
    torch.optim.SGD(torch.nn.Linear(1, 1).parameters())
    reached, caught_in_the_middle = -1, 0
    dice = random.Random(7)
    for _ in range(kills):
        child, saved = fork_saver(tmp_path, [mode, str(keep), str(again)])
        assert os.read(saved, 5) == b"saved"
        time.sleep(dice.uniform(0, 0.03))  # no wait for something: the random instant
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(saved)
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


def fork_saver(root: Path, arguments: list[str]) -> tuple[int, int]:
    """The process id of a saver and the pipe on which it says that it has saved."""
    saved, say = os.pipe()
    child = os.fork()
    if child:
        os.close(say)
        return child, saved
    try:
        os.dup2(say, 1)
        sys.argv = ["saver", str(root), *arguments]
        exec(compile(SAVER, "saver", "exec"), {})  # noqa: S102
    finally:
        os._exit(1)


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


LOGGER = """
import os, sys
from monitoring import MetricsLogger
logger = MetricsLogger(sys.argv[1])
for step in range(10**9):
    logger.log_metrics(step, {"loss": step / 7, "writer": int(sys.argv[2])})
    os.write(1, b"%d\\n" % step)
"""


def test_a_killed_process_loses_no_metric_row(tmp_path: Path) -> None:
    for _ in range(10):
        logs = tmp_path / str(_)
        child = start(LOGGER, logs, 0)
        assert child.stdout is not None
        for _line in range(random.Random(_).randint(1, 3000)):
            child.stdout.readline()
        child.kill()
        said = child.stdout.read().split(b"\n")[:-1]
        child.wait()
        child.stdout.close()
        rows = MetricsLogger(logs).load_metrics()
        assert [row["step"] for row in rows] == list(range(len(rows)))
        assert len(rows) > (int(said[-1]) if said else 0)  # every row it said it had logged
        assert all(row["loss"] == row["step"] / 7 for row in rows)
        text = (logs / "training.log").read_text().splitlines()
        assert len(rows) - len(text) in (0, 1)


def test_several_writers_lose_and_tear_no_row(tmp_path: Path) -> None:
    children = [start(LOGGER, tmp_path, number) for number in range(4)]
    reached = []
    for child in children:
        assert child.stdout is not None
        for _ in range(2000):
            line = child.stdout.readline()
        reached.append(int(line))
    for child in children:
        child.kill()
        child.communicate()
    steps: dict[int, list[int]] = {}
    for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines():
        row = json.loads(line)
        steps.setdefault(row["writer"], []).append(row["step"])
    for writer, last in enumerate(reached):
        assert steps[writer][: last + 1] == list(range(last + 1))


def start(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE
    )
