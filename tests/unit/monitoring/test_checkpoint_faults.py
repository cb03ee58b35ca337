"""CheckpointManager where something is in the way: nothing torn is kept, nothing good is lost."""

import errno
import fcntl
import json
import logging
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

from monitoring import CheckpointManager, preemption
from monitoring.checkpoints import commit
from monitoring.checkpoints import manager as checkpoints
from monitoring.checkpoints.copies.cpu_copy import CpuCopy
from monitoring.checkpoints.file import BLOCK, ChecksummedFile
from monitoring.paths import commit_record
from tests.forked import Forked

MODEL = nn.Linear(200, 200)  # a weight large enough to be copied beside the passes
OPTIMIZER = torch.optim.SGD(MODEL.parameters(), lr=1.0)

Wait = Callable[..., Any]


def save(manager: CheckpointManager, step: Any, **more: Any) -> str | None:
    return manager.save_checkpoint(step, MODEL, OPTIMIZER, [], {}, **more)


def steps(manager: CheckpointManager) -> list[int]:
    return [item["step"] for item in manager.list_checkpoints()]


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[CheckpointManager]:
    """A manager that saves beside the training."""
    manager = CheckpointManager(tmp_path, async_save=True, keep_last_n=3)
    yield manager
    manager.close()


# -- what would be torn is not kept -----------------------------------------------------------


def test_averaged_weights_swapped_in_by_data_are_noticed_and_the_save_is_done_again(
    beside: CheckpointManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As averages are swapped in for evaluation: nothing but the numbers tells of it."""
    swapped, average = threading.Event(), torch.zeros(200, 200)
    copy = CpuCopy._run

    def late(self: Any, pairs: Any) -> None:
        assert swapped.wait(30)
        copy(self, pairs)

    own = MODEL.weight.detach().clone()
    with monkeypatch.context() as patch:
        patch.setattr(CpuCopy, "_run", late)
        save(beside, 1000)
        MODEL.weight.data.copy_(average)
        swapped.set()
        assert not beside.wait()
    MODEL.weight.data.copy_(own)
    assert "changed a weight" in caplog.text
    assert steps(beside) == []

    assert beside.should_checkpoint(1001), "it is due again at once"
    save(beside, 1001)
    assert not beside.should_checkpoint(1002)
    checkpoint = beside.load_latest_checkpoint()
    assert checkpoint is not None
    assert torch.equal(checkpoint["model_state_dict"]["weight"], own)


def test_a_synchronous_save_that_was_interrupted_never_replaces_the_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Wait
) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=1)
    save(manager, 1)
    go_on, sync = threading.Event(), ChecksummedFile.sync

    def slow(self: ChecksummedFile) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert go_on.wait(30)
        sync(self)

    monkeypatch.setattr(ChecksummedFile, "sync", slow)
    with pytest.raises(KeyboardInterrupt):
        save(manager, 2)
    under_way = manager._save
    assert under_way is not None
    go_on.set()
    wait_until(lambda: under_way.done)
    assert steps(manager) == [1]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_save_that_was_given_up_on_commits_only_what_is_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Wait, *, asynchronous: bool
) -> None:
    manager = CheckpointManager(tmp_path, async_save=asynchronous, stall_seconds=0.1)
    go_on, sync = threading.Event(), ChecksummedFile.sync

    def hanging(self: ChecksummedFile) -> None:
        assert go_on.wait(30)
        sync(self)

    monkeypatch.setattr(ChecksummedFile, "sync", hanging)
    save(manager, 1)
    assert not manager.wait()
    under_way = manager._save
    assert under_way is not None
    go_on.set()
    wait_until(lambda: under_way.done)
    assert steps(manager) == ([1] if asynchronous else [])
    manager.close()


@pytest.mark.parametrize("stride", [11, pytest.param(3, marks=pytest.mark.thorough)])
def test_no_flipped_bit_of_a_record_chooses_another_checkpoint_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stride: int
) -> None:
    manager = CheckpointManager(tmp_path)
    for step in (1, 2, 3):
        save(manager, step)
    record = commit_record(manager.paths.checkpoint(3))
    whole = record.read_bytes()
    for bit in range(0, 8 * len(whole), stride):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        record.write_bytes(flipped)
        caplog.clear()
        checkpoint = manager.load_latest_checkpoint()
        assert checkpoint is not None
        assert checkpoint["step"] == 3 or "checkpoint_step_3.pt" in caplog.text
        assert sorted(steps(manager)) in ([1, 2], [1, 2, 3])
        for aside in manager.checkpoint_dir.glob("*.corrupt"):
            aside.rename(aside.with_name(aside.name.removesuffix(".corrupt")))


def test_the_processes_of_one_training_may_save_into_one_directory(tmp_path: Path) -> None:
    def rank(number: int) -> None:
        torch.set_num_threads(1)
        model = nn.Linear(64, 64)
        manager = CheckpointManager(tmp_path)
        for step in range(1, 31):
            barrier.wait(60)
            manager.save_checkpoint(
                step, model, torch.optim.SGD(model.parameters()), [0.0] * number, {}
            )
            barrier.wait(60)
            if number == 0:
                commit.verify(manager.paths.checkpoint(step))
        os._exit(0)

    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    ranks = [context.Process(target=rank, args=(number,)) for number in range(4)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    manager = CheckpointManager(tmp_path)
    assert steps(manager) == [28, 29, 30]
    assert not list(manager.checkpoint_dir.glob(".*"))


def test_the_threads_of_one_process_may_save_into_one_directory(tmp_path: Path) -> None:
    def rank(number: int) -> None:
        model = nn.Linear(64, 64)
        manager = CheckpointManager(tmp_path)
        for step in range(1, 41):
            barrier.wait(60)
            path = manager.save_checkpoint(
                step, model, torch.optim.SGD(model.parameters()), [0.0] * number, {}
            )
            saved.append(path)
            barrier.wait(60)
            if number == 0:
                commit.verify(manager.paths.checkpoint(step))
                verified.append(step)

    barrier, saved, verified = threading.Barrier(3), list[str | None](), list[int]()
    ranks = [threading.Thread(target=rank, args=(number,)) for number in range(3)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    assert verified == list(range(1, 41))
    assert len(saved) == 120
    assert None not in saved
    assert not list((tmp_path / "checkpoints").glob(".*"))


DRAFTS = """
import os, sys, time
from pathlib import Path
from monitoring.files import temporary
draft = temporary(Path(sys.argv[1]))
draft.write_bytes(b"half a checkpoint")
print(draft, flush=True)
if sys.argv[2] == "lives":
    time.sleep(60)
"""


def test_of_what_others_left_only_that_of_ended_processes_is_cleared_away(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    path = manager.paths.checkpoint(9)

    def writer(what: str) -> tuple[subprocess.Popen[str], Path]:
        command = [sys.executable, "-c", DRAFTS, str(path), what]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    def age(draft: Path, seconds: float) -> None:
        moment = time.time() - seconds
        os.utime(draft, (moment, moment))

    ended, left = writer("ends")
    ended.communicate(timeout=60)
    living, written = writer("lives")
    age(written, 7200)  # it waits for its storage
    # As in another container on this volume: the same process number is another process there.
    elsewhere = written.with_name(re.sub(r"[0-9a-f]{8}-\d+-", "01234567-4711-", written.name))
    elsewhere.touch()
    forsaken = elsewhere.with_name(elsewhere.name.replace("4711", "4712"))
    forsaken.touch()
    age(forsaken, 7200)
    try:
        save(manager, 10)
        assert not left.exists()
        assert written.exists()
        assert elsewhere.exists()
        assert not forsaken.exists()
    finally:
        living.kill()
        living.communicate()
    save(manager, 11)
    assert not written.exists()


@pytest.mark.parametrize("loads", [100, pytest.param(300, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("again", [False, True], ids=["steps", "the same step"])
def test_a_process_that_loads_beside_one_that_saves_finds_every_checkpoint_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, loads: int, *, again: bool
) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=1)
    save(manager, 1)

    def writer() -> None:
        torch.set_num_threads(1)
        step = 1
        while True:
            step += not again
            save(manager, step)

    process = multiprocessing.get_context("fork").Process(target=writer)
    process.start()
    try:
        loaded = [manager.load_latest_checkpoint() for _ in range(loads)]
        assert process.exitcode is None
    finally:
        process.kill()
        process.join()
    assert None not in loaded
    found = [checkpoint["step"] for checkpoint in loaded if checkpoint is not None]
    assert found == sorted(found)
    assert again or found[-1] > 1
    assert not caplog.records
    assert not list(manager.checkpoint_dir.glob("*.corrupt"))
    assert manager.latest_symlink.exists()


# -- what is good is kept ---------------------------------------------------------------------


def test_marking_what_is_not_there_keeps_the_one_marked_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=1)
    save(manager, 1)
    manager.mark_best(1)
    manager.mark_best(2)
    assert "checkpoint_step_2.pt best: there is no such checkpoint" in caplog.text
    save(manager, 3)
    assert steps(manager) == [1, 3]


def test_the_best_may_be_marked_while_it_is_being_saved(
    beside: CheckpointManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked, sync = threading.Event(), ChecksummedFile.sync

    def late(self: ChecksummedFile) -> None:
        assert marked.wait(30)
        sync(self)

    monkeypatch.setattr(ChecksummedFile, "sync", late)
    save(beside, 1)
    beside.mark_best(1)
    marked.set()
    for step in (2, 3, 4, 5):
        save(beside, step)
    beside.wait()
    assert steps(beside) == [1, 3, 4, 5]
    assert beside.paths.best_checkpoint.readlink().name == "checkpoint_step_1.pt"


def test_a_file_system_without_links_keeps_and_retires_checkpoints_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    manager = CheckpointManager(tmp_path, keep_last_n=2)
    assert all(save(manager, step) is not None for step in range(1, 6))
    assert steps(manager) == [4, 5]
    checkpoint = manager.load_latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint["step"] == 5
    assert caplog.text.count("Cannot point") == 1


def test_latest_is_the_one_that_was_loaded_after_a_damaged_one(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    save(manager, 1)
    save(manager, 2)
    manager.paths.checkpoint(2).write_bytes(b"")
    manager.load_latest_checkpoint()
    assert manager.latest_symlink.readlink().name == "checkpoint_step_1.pt"


@pytest.mark.parametrize("step", [7.0, torch.tensor(7)])
def test_a_step_of_another_type_is_the_same_checkpoint(tmp_path: Path, step: Any) -> None:
    manager = CheckpointManager(tmp_path)
    assert save(manager, step) == str(manager.paths.checkpoint(7))
    assert json.loads(commit_record(manager.paths.checkpoint(7)).read_text())["step"] == 7


def test_a_save_in_inference_mode_leaves_the_next_ones_alone(beside: CheckpointManager) -> None:
    with torch.inference_mode():
        save(beside, 1)
    save(beside, 2)
    beside.wait()
    assert steps(beside) == [1, 2]


def test_the_age_of_the_last_save_counts_from_that_save(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, save_interval=10**6, save_seconds=3600)
    manager._last_save -= 3601
    assert manager.should_checkpoint(1)
    save(manager, 1)
    assert not manager.should_checkpoint(2)


# -- the training goes on ---------------------------------------------------------------------


def test_a_save_leaves_the_programs_own_handler_of_sigterm_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preemption, "_installed", False)  # another test may have asked for it

    def own(*_: object) -> None:
        """The program's."""

    before = signal.signal(signal.SIGTERM, own)
    try:
        manager = CheckpointManager(tmp_path, async_save=True, when_busy="skip")
        save(manager, 1)
        save(manager, 2)
        manager.close()
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_memory_for_a_copy_the_loop_waits_for_the_save(tmp_path: Path) -> None:
    def program() -> None:
        model = nn.Linear(4000, 4000)
        manager = CheckpointManager(tmp_path, async_save=True)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (20 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        manager.save_checkpoint(1, model, torch.optim.SGD(model.parameters()), [], {})
        print(steps(manager))

    with Forked(program) as forked:
        assert forked.wait() == 0, forked.stderr
        assert forked.stdout == "[1]\n"
        assert "no memory for a copy" in forked.stderr


def test_without_a_further_thread_the_loop_does_it_all(
    beside: CheckpointManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    save(beside, 1)
    OPTIMIZER.step()
    assert steps(beside) == [1]


def test_a_forked_process_saves_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, sync = threading.Event(), ChecksummedFile.sync
    parent = os.getpid()

    def late(self: ChecksummedFile) -> None:
        assert os.getpid() != parent or go_on.wait(30)
        sync(self)

    monkeypatch.setattr(ChecksummedFile, "sync", late)
    manager = CheckpointManager(tmp_path, async_save=True)
    save(manager, 1)
    child = os.fork()
    if child == 0:
        OPTIMIZER.step()
        saved = save(manager, 2) is not None and manager.wait()
        os._exit(0 if saved else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    go_on.set()
    manager.close()
    assert steps(manager) == [1, 2]


def test_a_storage_that_is_slow_for_long_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go_on, sync = threading.Event(), ChecksummedFile.sync

    def late(self: ChecksummedFile) -> None:
        assert go_on.wait(30)
        sync(self)

    monkeypatch.setattr(ChecksummedFile, "sync", late)
    manager = CheckpointManager(tmp_path, async_save=True, when_busy="skip")
    with caplog.at_level(logging.WARNING):
        for step in range(20):
            save(manager, step)
        go_on.set()
        manager.close()
    assert len(caplog.records) == 1


def test_a_storage_that_hangs_holds_up_no_other_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, sync = threading.Event(), ChecksummedFile.sync

    def hang(self: ChecksummedFile) -> None:
        written = Path(f"/proc/self/fd/{self._descriptor}").readlink()
        assert "hanging" not in written.parts or go_on.wait(30)
        sync(self)

    monkeypatch.setattr(ChecksummedFile, "sync", hang)
    hanging = CheckpointManager(tmp_path / "hanging", async_save=True)
    healthy = CheckpointManager(tmp_path / "healthy")
    save(hanging, 1)
    assert save(healthy, 1) is not None
    go_on.set()
    hanging.close()


def test_a_program_that_ends_says_that_its_last_save_failed(tmp_path: Path) -> None:
    script = (
        "import resource, sys, torch\n"
        "from monitoring import CheckpointManager\n"
        "model = optimizer = torch.nn.Linear(200, 200)\n"  # a real optimizer imports for seconds
        "manager = CheckpointManager(sys.argv[1], async_save=True)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))\n"
        "manager.save_checkpoint(1, model, optimizer, [], {})\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "checkpoint_step_1.pt skipped" in done.stderr
    assert "File too large" in done.stderr


# -- what it takes is given back --------------------------------------------------------------


def test_closing_gives_the_memory_back_also_after_a_save_that_failed(tmp_path: Path) -> None:
    hooks = len(_global_optimizer_pre_hooks)
    manager = CheckpointManager(tmp_path, async_save=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        save(manager, 1)
        manager.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert steps(manager) == []
    assert manager._snapshot.nbytes == 0
    assert len(_global_optimizer_pre_hooks) == hooks


def test_a_manager_that_nobody_knows_any_more_is_gone(tmp_path: Path) -> None:
    hooks = len(_global_optimizer_pre_hooks)
    manager = CheckpointManager(tmp_path, async_save=True)
    save(manager, 1)
    manager.wait()
    snapshot = weakref.ref(manager._snapshot)
    del manager
    assert snapshot() is None
    assert len(_global_optimizer_pre_hooks) == hooks


def test_large_asynchronous_checkpoints_are_written_directly_and_in_whole_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct: list[bool] = []
    write = os.write

    def watched(descriptor: int, data: Any) -> int:
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".tmp":
            direct.append(bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", watched)
    monkeypatch.setattr(checkpoints, "_LARGE", 1 << 20)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(1024, 1024))
    optimizer = torch.optim.SGD(model.parameters())
    manager = CheckpointManager(tmp_path, async_save=True)
    path = manager.save_checkpoint(1, model, optimizer, [], {})
    assert [b.data_ptr() % BLOCK for b in manager._snapshot._buffers if b.numel() > 10**6] == [0]
    manager.close()
    assert direct.count(True) > 1
    assert direct.count(False) == 1  # the rest of a block
    assert path is not None
    data = Path(path).read_bytes()
    place = data.find(model[1].weight.detach().numpy().tobytes())
    assert place > 0
    assert place % BLOCK == 0
    small = CheckpointManager(tmp_path / "small", async_save=True)
    direct.clear()
    save(small, 1)
    small.close()
    assert not any(direct)
