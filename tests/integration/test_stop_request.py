"""A stop request reaches the program that saves, whatever started it, and leaves it its grace."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.one_worker import STUBBORN
from tests.integration.test_guard import begin
from worker.launch.child import Child, start_cold
from worker.launch.fork_client import ForkServerClient

Wait = Callable[..., Any]

# It takes a while to save, says so on its output before and after, and notes each signal.
TRAINER = """
import os, signal, sys, time
got = []
signal.signal(getattr(signal, sys.argv[1]), lambda n, f: got.append(n))
print("ready", os.getpid(), flush=True)
while not got: time.sleep(0.01)
print("saving", flush=True)
end = time.monotonic() + 0.7
while time.monotonic() < end: time.sleep(0.01)
print("saved", *got, flush=True)
open("saved", "a").write(" ".join(map(str, got)) + "\\n")
sys.exit(5)
"""
# Ways to start it, as people write them: python -c for the trainer stands in {}.
PLAIN = "import subprocess, sys; subprocess.run(sys.argv[1:])"
PIPED = "import subprocess, sys; print(subprocess.run(sys.argv[1:], capture_output=True).stdout)"
DEAF = f"import signal; signal.signal(15, lambda *_: None); {PLAIN}"
SESSION = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True).wait()"
FORWARDING = """
import signal, subprocess, sys, time
child = subprocess.Popen(sys.argv[1:])
signal.signal(15, lambda *_: child.terminate())
while child.poll() is None: time.sleep(0.05)
sys.exit(child.returncode)
"""
LEAVING = """
import signal, subprocess, sys, time
signal.signal(15, lambda *_: sys.exit(3))
child = subprocess.Popen(sys.argv[1:])
while child.poll() is None: time.sleep(0.05)
"""


def trainer(number: str = "SIGTERM") -> list[str]:
    return [sys.executable, "-c", TRAINER, number]


def shell(script: str, name: str = "sh") -> list[str]:
    return [name, "-c", script.format(shlex.join(trainer()))]


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script, *trainer()]


WRAPPERS = {
    "plain": trainer(),
    "sh": shell("{}; exit $?"),
    "sh, next stage": shell("{}; touch next; sleep 600; touch next"),
    "sh, loop": shell("while true; do {} || true; touch next; done"),
    "bash, pipe": shell("{} 2>&1 | tee log", "bash"),
    "bash, pipefail": shell("set -o pipefail; {} | cat | tee log", "bash"),
    "bash, trap": shell("trap 'echo trapped' TERM; {}; echo after", "bash"),
    "bash, trap that forwards": shell("{} & p=$!; trap 'kill $p' TERM; wait $p; wait $p", "bash"),
    "sh, ignoring": shell("trap '' TERM; {}"),
    "sh in sh": ["sh", "-c", "sh -c " + shlex.quote(shlex.join(trainer()) + "; true") + "; true"],
    "background": shell("{} & sleep 600 & wait"),
    "env, nice": ["env", "A=1", "nice", *shell("{}; true")],
    "timeout": ["timeout", "600", *trainer()],
    "xargs": ["sh", "-c", f"echo SIGTERM | xargs {shlex.join(trainer()[:-1])}"],
    "launcher": python(PLAIN),
    "launcher, reads its output": python(PIPED),
    "launcher, another session": python(SESSION),
    "launcher, deaf": python(DEAF),
    "launcher, forwards": python(FORWARDING),
    "launcher, leaves": python(LEAVING),
}


@pytest.fixture(params=["cold", "warm"])
def start(request: pytest.FixtureRequest, warm: ForkServerClient) -> Callable[..., Child]:
    """Starts a command under a guard: a process of its own, or one that the fork server forks."""
    return partial(begin, start_cold if request.param == "cold" else warm.start)


def running(tmp_path: Path) -> Callable[[], bool]:
    """Whether the trainer runs; its output may go through a launcher that keeps it to the end."""

    def found() -> bool:
        for process in psutil.process_iter(["cmdline", "cwd"]):
            if process.info["cmdline"] == trainer() and process.info["cwd"] == str(tmp_path):
                status = Path(f"/proc/{process.pid}/status").read_text()
                caught = int(status.partition("SigCgt:")[2].split()[0], 16)
                return bool(caught >> (signal.SIGTERM - 1) & 1)
        return False

    return found


@pytest.mark.parametrize("how", WRAPPERS)
def test_a_trainer_behind_any_wrapper_is_asked_and_has_the_time_to_save(
    tmp_path: Path, wait_until: Wait, how: str
) -> None:
    child = begin(start_cold, WRAPPERS[how], tmp_path)
    try:
        wait_until(running(tmp_path), what="the trainer")
        child.terminate()
        wait_until(lambda: child.exit_code is not None, what="its end", seconds=15)
    finally:
        child.end()
    signals = (tmp_path / "saved").read_text().splitlines()
    assert len(signals) == 1, "it saved once"
    assert set(signals[0].split()) == {"15"}
    assert not (tmp_path / "next").exists(), "no wrapper went on"
    assert child.exit_code != 137, "nothing was killed"
    if how == "bash, pipe":
        assert (tmp_path / "log").read_text().endswith("saved 15\n"), "its last words were kept"


def test_a_wrapped_trainer_is_asked_once(tmp_path: Path, wait_until: Wait) -> None:
    for how in ("sh", "bash, pipe", "launcher", "launcher, forwards", "sh in sh"):
        (tmp_path / "saved").unlink(missing_ok=True)
        child = begin(start_cold, WRAPPERS[how], tmp_path)
        wait_until(running(tmp_path), what="the trainer")
        child.terminate()
        child.wait()
        assert (tmp_path / "saved").read_text() == "15\n", how


# It deals with its ranks as torchrun does; the second one does not save.
RANKS = """
import os, signal, subprocess, sys, time
env = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
ends = "import signal, time; signal.signal(15, lambda *_: exit(143)); time.sleep(600)"
ranks = [subprocess.Popen(command, env=env, start_new_session=True)
         for command in (sys.argv[1:], [sys.executable, "-c", ends])]
def kill(*_):
    for rank in ranks:
        os.killpg(rank.pid, signal.SIGKILL)  # as a rank whose data loader is killed
    sys.exit(1)
signal.signal(signal.SIGTERM, kill)
while not any(rank.poll() for rank in ranks): time.sleep(0.1)
kill()
"""


@pytest.mark.parametrize("wrap", [[], ["sh", "-c", '"$@" | tee log; true', "-"]])
def test_ranks_are_asked_without_torchrun_which_would_kill_those_that_save(
    tmp_path: Path, wait_until: Wait, wrap: list[str]
) -> None:
    child = begin(start_cold, [*wrap, *python(RANKS)], tmp_path)
    wait_until(running(tmp_path), what="the trainer")
    time.sleep(0.5)  # the other rank, too
    child.terminate()
    child.wait()
    assert (tmp_path / "saved").read_text() == "15\n"


def test_the_exit_code_is_that_of_the_command(
    start: Callable[..., Child], tmp_path: Path, wait_until: Wait
) -> None:
    child = start(shell("{}; exit 7"), tmp_path)
    wait_until(running(tmp_path), what="the trainer")
    child.terminate()
    child.wait()
    assert child.exit_code == 143, "the shell is asked when the trainer has ended"
    assert (tmp_path / "saved").exists()


def test_a_tree_without_a_handler_ends_at_once(
    start: Callable[..., Child], tmp_path: Path, wait_until: Wait
) -> None:
    child = start(["sh", "-c", "echo ready; sleep 600; sleep 600"], tmp_path)
    wait_until(lambda: "ready" in (tmp_path / "output").read_text(), what="the program")
    begun = time.monotonic()
    child.terminate()
    child.wait()
    assert time.monotonic() - begun < 5
    assert child.exit_code == 143


def test_what_ignores_the_request_runs_until_it_is_killed(tmp_path: Path, wait_until: Wait) -> None:
    command = shlex.join([sys.executable, "-c", STUBBORN])
    child = begin(start_cold, ["sh", "-c", f"{command}; true"], tmp_path)
    wait_until(lambda: "up" in (tmp_path / "output").read_text(), what="the program")
    child.terminate()
    time.sleep(3)
    assert child.exit_code is None
    child.kill()
    child.wait()
    assert child.exit_code == 143, "the shell's own"


@pytest.mark.parametrize("how", ["sh", "sh in sh", "launcher", "launcher, forwards"])
def test_a_signal_to_every_process_of_the_tree_is_one_request(
    tmp_path: Path, wait_until: Wait, how: str
) -> None:
    """As systemd and Slurm send it; the supervisor has it too, and asks the guard."""
    child = begin(start_cold, WRAPPERS[how], tmp_path)
    wait_until(running(tmp_path), what="the trainer")
    assert child._process is not None
    guard = psutil.Process(child._process.pid)
    tree = [guard, *guard.children(recursive=True)]
    for process in tree:
        os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.2)
    child.terminate()
    child.wait()
    saved = (tmp_path / "saved").read_text()
    # A launcher that forwards does so by itself; if the trainer has noted the first signal by then,
    # it gets two. A third would be ours.
    allowed = {"15\n", "15 15\n"} if how == "launcher, forwards" else {"15\n"}
    assert saved in allowed, "once, and with the time that it needed"


def test_a_guard_that_alone_has_the_signal_passes_it_on(tmp_path: Path, wait_until: Wait) -> None:
    child = begin(start_cold, WRAPPERS["sh"], tmp_path)
    wait_until(running(tmp_path), what="the trainer")
    assert child._process is not None
    child._process.terminate()
    child.wait()
    assert (tmp_path / "saved").read_text() == "15\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize(
    "wrap", [[], ["sh", "-c", '"$@"; true', "-"], [sys.executable, "-c", PLAIN]]
)
def test_a_program_is_asked_by_the_signal_that_it_saves_on(
    tmp_path: Path, wait_until: Wait, number: signal.Signals, wrap: list[str]
) -> None:
    command = [*wrap, *trainer(number.name)]
    output = tmp_path / "output"
    child = Child(command, env=dict(os.environ), cwd=tmp_path, output=output,
                  on_exit=lambda: None, stop_signal=number)  # fmt: skip
    wait_until(lambda: "ready" in output.read_text(), what="the trainer")
    child.terminate()
    child.wait()
    assert (tmp_path / "saved").read_text() == f"{number.value}\n"
