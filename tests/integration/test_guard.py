"""No process of a job outlives its supervisor."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.one_worker import USUAL
from worker.launch.child import Child, Start, start_cold
from worker.launch.fork_client import ForkServerClient

Wait = Callable[..., Any]

# A tree: the program, a child of its own, and one that left the session and lost its parent.
TREE = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleep)
if os.fork() == 0:
    os.setsid()
    daemon = subprocess.Popen(sleep)
    print(daemon.pid, flush=True)
    os._exit(0)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def begin(
    how: Start, command: list[str], tmp_path: Path, on_exit: Callable[[], None] = lambda: None
) -> Child:
    output = tmp_path / "output"
    return Child(command, env=USUAL, cwd=tmp_path, output=output, on_exit=on_exit, start=how)


@pytest.fixture(params=["cold", "warm"])
def start(request: pytest.FixtureRequest, warm: ForkServerClient) -> Callable[..., Child]:
    """Starts a command under a guard: a process of its own, or one that the fork server forks."""
    return partial(begin, start_cold if request.param == "cold" else warm.start)


def pids(tmp_path: Path, wait_until: Wait) -> list[psutil.Process]:
    output = tmp_path / "output"
    wait_until(lambda: output.exists() and len(output.read_text().split()) == 3, what="the tree")
    return [psutil.Process(int(word)) for word in output.read_text().split()]


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=10)[1]


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)],
)
def test_the_guard_ends_as_its_command_did(
    start: Callable[..., Child], tmp_path: Path, script: str, code: int
) -> None:
    ended = threading.Event()
    child = start(["sh", "-c", script], tmp_path, ended.set)
    assert ended.wait(30)
    assert child.exit_code == code


def test_a_program_that_stops_its_guard_cannot_hold_up_the_worker(
    start: Callable[..., Child], tmp_path: Path, wait_until: Wait
) -> None:
    script = (
        "import os, signal, time; os.kill(os.getppid(), signal.SIGSTOP); "
        "print(os.getppid(), flush=True); time.sleep(600)"
    )
    child = start([sys.executable, "-c", script], tmp_path)
    output = tmp_path / "output"
    wait_until(lambda: output.read_text().endswith("\n"), what="the guard's name")
    guard = psutil.Process(int(output.read_text()))
    try:
        ending = threading.Thread(target=child.end, daemon=True)
        ending.start()
        ending.join(30)
        assert not ending.is_alive()
        assert gone([guard])
    finally:
        if guard.is_running():
            guard.kill()


def test_sigterm_reaches_the_program_and_only_it(
    start: Callable[..., Child], tmp_path: Path
) -> None:
    script = 'trap "echo saved; exit 5" TERM; echo ready; while true; do sleep 0.05; done'
    child = start(["sh", "-c", script], tmp_path)
    while "ready" not in (tmp_path / "output").read_text():
        assert child.exit_code is None
    child.terminate()
    child.wait()
    assert child.exit_code == 5
    assert (tmp_path / "output").read_text() == "ready\nsaved\n"


def test_a_kill_takes_the_whole_tree(
    start: Callable[..., Child], tmp_path: Path, wait_until: Wait
) -> None:
    child = start([sys.executable, "-c", TREE], tmp_path)
    tree = pids(tmp_path, wait_until)
    child.kill()
    child.wait()
    assert child.exit_code == 137
    assert gone(tree)


def test_what_a_program_leaves_running_ends_with_it(
    start: Callable[..., Child], tmp_path: Path, wait_until: Wait
) -> None:
    child = start([sys.executable, "-c", TREE], tmp_path)
    tree = pids(tmp_path, wait_until)
    main = psutil.Process(int((tmp_path / "output").read_text().split()[-2]))
    tree_of_main = [p for p in tree if p.ppid() not in {main.pid}]
    assert tree_of_main
    max(tree, key=lambda p: len(p.children())).kill()
    child.wait()
    assert gone(tree)


@pytest.mark.parametrize("how", ["cold", "warm"])
def test_the_tree_dies_with_a_killed_supervisor(tmp_path: Path, wait_until: Wait, how: str) -> None:
    supervisor = f"""
import os, sys, time
from pathlib import Path
from worker.launch.child import Child, start_cold
from worker.launch.fork_client import ForkServerClient
start = start_cold
if {how!r} == "warm":
    warm = ForkServerClient(os.environ)
    assert warm.wait_until_ready(60)
    start = warm.start
Child([sys.executable, "-c", {TREE!r}], env=dict(os.environ), cwd=Path({str(tmp_path)!r}),
      output=Path({str(tmp_path / "output")!r}), on_exit=lambda: None, start=start)
time.sleep(600)
"""
    process = psutil.Popen([sys.executable, "-c", supervisor])
    try:
        tree = pids(tmp_path, wait_until)
        family = {*tree, *process.children(recursive=True)}
        assert len(family) > len(tree), "a guard, and a fork server"
        process.kill()
        assert gone([*family])
    finally:
        process.kill()
        process.wait()


def test_the_program_dies_with_a_killed_guard(
    start: Callable[..., Child], tmp_path: Path, wait_until: Wait
) -> None:
    child = start([sys.executable, "-c", "import os; print(1, 2, os.getpid(), flush=True); "
                   "import time; time.sleep(600)"], tmp_path)  # fmt: skip
    wait_until(lambda: len((tmp_path / "output").read_text().split()) == 3, what="the program")
    program = psutil.Process(int((tmp_path / "output").read_text().split()[2]))
    guard = program.parent()
    assert guard is not None
    guard.send_signal(signal.SIGKILL)
    child.wait()
    assert gone([program])


def test_a_thread_that_ends_takes_no_child_with_it(
    start: Callable[..., Child], tmp_path: Path, wait_until: Wait
) -> None:
    """For the kernel, the thread that started the guard is its parent."""
    children: list[Child] = []
    output = tmp_path / "output"

    def begin() -> None:
        children.append(start(["sh", "-c", "echo ready; sleep 1; exit 3"], tmp_path))
        wait_until(lambda: "ready" in output.read_text(), what="the program")

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    children[0].wait()
    assert children[0].exit_code == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_a_program_heeds_signals_that_its_worker_was_started_to_ignore(
    tmp_path: Path, wait_until: Wait, number: signal.Signals
) -> None:
    usual = signal.signal(number, signal.SIG_IGN)  # as nohup does, or a script with `&`
    try:
        child = begin(start_cold, ["sh", "-c", "echo $$; exec sleep 600"], tmp_path)
    finally:
        signal.signal(number, usual)
    try:
        wait_until(lambda: (tmp_path / "output").read_text().endswith("\n"), what="its number")
        program = int((tmp_path / "output").read_text())
        wait_until(lambda: psutil.Process(program).name() == "sleep", what="the program")
        os.kill(program, number)
        assert wait_until(lambda: child.exit_code, what="its end") == 128 + number
    finally:
        child.end()
