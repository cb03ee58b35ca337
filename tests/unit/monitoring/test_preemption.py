"""SIGTERM asks for a stop; the loop decides when."""

import signal
import subprocess
import sys
import threading

import pytest

from monitoring import preemption


def run(script: str) -> subprocess.CompletedProcess[str]:
    head = "import os, signal\nfrom monitoring import preemption\n"
    return subprocess.run(
        [sys.executable, "-c", head + script],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_sigterm_is_noticed_and_the_process_goes_on() -> None:
    child = run(
        "print(preemption.stop_requested())\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print(preemption.stop_requested())\n"
    )
    assert child.stdout.split() == ["False", "True"]
    assert child.returncode == 0


def test_signals_that_come_together_are_one_and_a_later_one_ends_the_process() -> None:
    child = run(
        "import sys, time\n"
        "began = time.monotonic()\n"
        "preemption.install()\n"
        "for seconds in (0, 0, 1, 9.9, 10.1):\n"
        "    time.monotonic = lambda: began + seconds\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(preemption.stop_requested(), seconds, flush=True)\n"
    )
    assert child.stdout.split() == ["True", "0", "True", "0", "True", "1", "True", "9.9"]
    assert child.returncode == -signal.SIGTERM


def test_installing_outside_the_main_thread_says_why_not() -> None:
    caught: list[ValueError] = []

    def install() -> None:
        with pytest.raises(ValueError, match="main thread") as error:
            preemption.install()
        caught.append(error.value)

    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    assert caught


@pytest.mark.parametrize("asked", [False, True])
def test_a_forked_child_ends_at_the_first_sigterm_and_nobody_asked_it(*, asked: bool) -> None:
    child = run(
        "import multiprocessing, time\n"
        "preemption.install()\n"
        f"if {asked}: os.kill(os.getpid(), signal.SIGTERM)\n"
        "context = multiprocessing.get_context('fork')\n"
        "here, there = context.Pipe()\n"
        "def work():\n"
        "    there.send(preemption.was_requested())\n"
        "    time.sleep(60)\n"
        "process = context.Process(target=work)\n"
        "process.start()\n"
        "print(here.recv())\n"
        "process.terminate()\n"
        "process.join(30)\n"
        "print(process.exitcode, preemption.was_requested())\n"
    )
    assert child.stdout.split() == ["False", f"-{signal.SIGTERM:d}", str(asked)], child.stderr


def test_a_forked_child_has_the_handler_that_was_there_before() -> None:
    child = run(
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n"
        "preemption.install()\n"
        "child = os.fork()\n"
        "if child == 0: os.kill(os.getpid(), signal.SIGTERM)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert child.stdout.split() == ["7"], child.stderr
