"""The fork server: what it never does, what it costs, and what happens without it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from worker.launch import fork_client
from worker.launch.child import start_cold
from worker.launch.fork_client import ForkServerClient

Wait = Callable[..., Any]

NUMBERS = """
import random, numpy, torch
print(random.random(), numpy.random.rand(), torch.rand(()).item(), torch.initial_seed())
"""
WAIT = """
import os, time
print("up")
while not os.path.exists("go"): time.sleep(0.02)
print("done")
"""
THREADS = "import torch, os; print(torch.get_num_threads(), os.environ['OMP_NUM_THREADS'])"
COMPUTE = """
import os, sys, threading, torch
assert torch.get_num_threads() == {threads}
a = torch.rand(700, 700)
results = [None] * 3
def multiply(n): results[n] = float((a @ a).sum())
threads = [threading.Thread(target=multiply, args=(n,)) for n in (1, 2)]
for thread in threads: thread.start()
multiply(0)
for thread in threads: thread.join()
x = torch.rand(64, 64, requires_grad=True)
(x @ x).sum().backward()
for _ in torch.utils.data.DataLoader(range(4), num_workers=2): pass
print(results[0] == results[1] == results[2], torch.cuda.is_initialized(),
      torch.cuda._is_in_bad_fork(), len(os.listdir("/proc/self/task")) >= {threads})
"""


@pytest.fixture(scope="module")
def _expendable(usual: dict[str, str]) -> Iterator[ForkServerClient]:
    warm = ForkServerClient(usual)
    yield warm
    warm.close()


@pytest.fixture
def expendable(_expendable: ForkServerClient) -> ForkServerClient:
    """A fork server that is ready, and may be killed."""
    assert _expendable.wait_until_ready(60)
    return _expendable


def server(warm: ForkServerClient) -> psutil.Process:
    pid = warm.server_pid
    assert pid is not None
    return psutil.Process(pid)


def test_the_fork_server_has_one_thread_and_never_touches_cuda(warm: ForkServerClient) -> None:
    process = server(warm)
    assert process.num_threads() == 1
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "libtorch" in maps
    assert "libcuda.so" not in maps
    assert not [file.path for file in process.open_files() if "nvidia" in file.path]


def test_a_child_computes_on_all_cores_and_in_threads_of_its_own(
    warm: ForkServerClient, runner: Any
) -> None:
    script = "import torch; print(torch.get_num_threads())"
    threads = runner.run(start_cold, ["python", "-c", script]).output.strip()
    (runner.cwd / "s.py").write_text(COMPUTE.format(threads=threads))
    for _ in range(2):
        assert runner.run(warm.start, ["python", "s.py"]).output == "True False False True\n"


def test_every_child_draws_other_random_numbers(warm: ForkServerClient, runner: Any) -> None:
    (runner.cwd / "s.py").write_text(NUMBERS)
    drawn = [runner.run(warm.start, ["python", "s.py"]).output.split() for _ in range(3)]
    for numbers in zip(*drawn, strict=True):
        assert len(set(numbers)) == 3


@pytest.mark.parametrize("children", [60, pytest.param(200, marks=pytest.mark.thorough)])
def test_many_children_leave_nothing_behind(
    warm: ForkServerClient, runner: Any, children: int
) -> None:
    (runner.cwd / "s.py").write_text("import torch; torch.ones(100).sum()")

    def run(times: int) -> None:
        for number in range(times):
            command = ["true"] if number % 8 else ["python", "s.py"]
            assert runner.run(warm.start, command).code == 0

    process, own = server(warm), psutil.Process()
    run(10)
    before = process.memory_info().rss, process.num_fds(), own.num_fds()
    run(children)
    after = process.memory_info().rss, process.num_fds(), own.num_fds()
    assert after[0] - before[0] < 2**20
    assert after[1] == before[1]
    assert after[2] - before[2] < 100, "other tests of this process may leave something for a while"
    assert process.num_threads() == 1
    assert not [child for child in process.children() if child.status() == psutil.STATUS_ZOMBIE]


def test_an_idle_fork_server_does_nothing(warm: ForkServerClient, runner: Any) -> None:
    process = server(warm)
    before = process.num_ctx_switches(), process.cpu_times()
    assert runner.run(start_cold, ["sh", "-c", "sleep 0.3"]).code == 0
    assert (process.num_ctx_switches(), process.cpu_times()) == before


def test_a_killed_fork_server_harms_no_job_and_comes_back(
    expendable: ForkServerClient, runner: Any, wait_until: Wait
) -> None:
    (runner.cwd / "s.py").write_text(WAIT)
    ours = {"SPECTRAIN_JOB_ID": "long-23456789", "SPECTRAIN_ATTEMPT": "1"}
    child, ended = runner.begin(expendable.start, ["python", "s.py"], name="long", **ours)
    log = runner.cwd.parent / "long"
    wait_until(lambda: log.read_text() == "up\n", what="the program")
    killed = server(expendable)
    guard, program = killed.children(recursive=True)
    assert guard.cmdline()[1:4] == ["-P", "-m", "worker.launch.guard"]
    assert program.cmdline()[:2] == ["python", "s.py"], "people can tell which is which"
    assert ours.items() <= program.environ().items(), "and whose it is"
    killed.kill()
    wait_until(lambda: not killed.is_running(), what="its end")
    assert runner.run(expendable.start, ["echo", "a"]).output == "a\n", "the next job starts"
    another = lambda: expendable.server_pid not in {None, killed.pid}  # noqa: E731
    wait_until(another, what="another fork server")
    assert runner.is_warm(expendable.start)
    (runner.cwd / "go").touch()
    assert ended.wait(30)
    assert (child.exit_code, log.read_text()) == (0, "up\ndone\n")


def test_a_fork_server_that_hangs_is_replaced_and_the_job_starts_once(
    expendable: ForkServerClient, runner: Any, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_client, "_ANSWER_SECONDS", 0.3)
    stopped = server(expendable)
    stopped.send_signal(signal.SIGSTOP)
    assert runner.run(expendable.start, ["sh", "-c", "echo once >> count"]).code == 0
    wait_until(lambda: not stopped.is_running(), what="its end")
    assert expendable.wait_until_ready(60)
    assert (runner.cwd / "count").read_text() == "once\n"


def test_settings_that_count_from_the_start_are_there_from_the_start(
    expendable: ForkServerClient, runner: Any, wait_until: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    first = server(expendable)
    assert first.environ()["OMP_WAIT_POLICY"] == "PASSIVE"
    (runner.cwd / "s.py").write_text(THREADS)
    one = {"OMP_NUM_THREADS": "1"}
    assert not runner.is_warm(expendable.start, **one)
    assert expendable.server_pid == first.pid
    assert runner.run(expendable.start, ["python", "s.py"], **one).output == "1 1\n"
    another = lambda: expendable.server_pid not in {None, first.pid}  # noqa: E731
    wait_until(another, what="a fork server of this kind")
    assert runner.run(expendable.start, ["python", "s.py"], **one).output == "1 1\n"
    assert runner.is_warm(expendable.start, **one)
    assert not caplog.records, "nothing to warn of"


@pytest.mark.parametrize("script", ["raise ImportError('broken')", "import os; os.abort()"])
def test_where_torch_is_broken_jobs_start_cold_and_one_warning_says_so(
    usual: dict[str, str], runner: Any, tmp_path: Path, script: str, wait_until: Wait,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(fork_client, "_LONGEST_PAUSE_SECONDS", 0.1)
    tries = tmp_path / "tries"
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    (libraries / "torch.py").write_text(f"print(1, file=open({str(tries)!r}, 'a'))\n{script}")
    with caplog.at_level(logging.WARNING):
        warm = ForkServerClient({**usual, "PYTHONPATH": str(libraries)})
        try:
            assert not warm.wait_until_ready(60)
            for _ in range(2):
                assert not runner.is_warm(warm.start)
            wait_until(lambda: len(tries.read_text().split()) > 2, what="further tries")
        finally:
            warm.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "jobs start cold" in caplog.text


def test_a_programs_own_modules_come_before_those_of_the_server(
    warm: ForkServerClient, runner: Any
) -> None:
    names = ("machine", "monitoring", "worker")
    mine = ", ".join(f"{name}.mine" for name in names)
    script = f"import {', '.join(names)}, numpy; print({mine}, numpy.__name__)"
    (runner.cwd / "s.py").write_text(script)
    for name in names:
        (runner.cwd / f"{name}.py").write_text("mine = True")
    assert runner.is_warm(warm.start)
    assert runner.run(warm.start, ["python", "s.py"]).output == "True True True numpy\n"
    (runner.cwd / "six.py").touch()
    assert not runner.is_warm(warm.start)


def test_the_built_in_workload_runs_warm(warm: ForkServerClient, runner: Any) -> None:
    run = runner.run(warm.start, ["python", "-m", "spectral_gpt", "--help"])
    assert run.code == 0
    assert run == runner.run(start_cold, ["python", "-m", "spectral_gpt", "--help"])
