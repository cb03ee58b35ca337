"""Programs that behave badly: each ends with a clear reason, and the worker takes the next job."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from tests.integration.one_worker import STUBBORN, Bench, DiskOf, python

Wait = Callable[..., Any]
ONCE = {"retry": {"max_failures": 0}}


def takes_the_next(bench: Bench) -> None:
    """The worker is fit for the next job, and nothing is left of the last one."""
    job = bench.run(JobSpec(name="next", command=["echo", "fine"]))
    assert job.state is State.SUCCEEDED, job.message
    assert "[1] fine" in bench.output(job)
    assert not list(bench.settings.scratch_dir.glob("a-*"))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("raise SystemExit(3)", "exit code 3: no output"),
        ("import os; os._exit(7)", "exit code 7: no output"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV: no output"),
        ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV: "),
        ("import os; os.abort()", "killed by SIGABRT: "),
        ("raise ValueError('the real reason')", "exit code 1: ValueError: the real reason"),
        ("import os; os.kill(os.getppid(), 9); import time; time.sleep(60)", "killed by SIGKILL"),
    ],
)
def test_one_that_ends_at_once(both: Bench, script: str, said: str) -> None:
    job = both.run(python(script, **ONCE))
    assert job.state is State.FAILED
    assert job.message.startswith(said), job.message
    takes_the_next(both)


def test_one_that_forks_and_leaves_its_children(bench: Bench, wait_until: Wait) -> None:
    leaves = (
        "import os, time\n"
        "for own_session in (False, True):\n"
        "    if os.fork() == 0:\n"
        "        own_session and os.setsid()\n"
        "        if os.fork() == 0:\n"
        "            os.execlp('sleep', 'sleep', '86411')\n"
        "        os._exit(0)\n"
        "time.sleep(0.5)\n"
    )
    job = bench.run(python(leaves))
    assert job.state is State.SUCCEEDED, job.message
    every = subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True, check=True)
    assert "sleep 86411" not in every.stdout
    takes_the_next(bench)


def test_one_that_prints_a_gigabyte_in_one_line(bench: Bench) -> None:
    script = "head -c 1000000000 /dev/zero | tr '\\0' x; echo; echo end"
    job = bench.run(JobSpec(name="a", run=script))
    assert job.state is State.SUCCEEDED, job.message
    log = bench.files(job).output_log
    assert log.stat().st_size < 200_000_000
    with log.open("rb") as file:
        file.seek(-200, 2)
        assert b"] end\n" in file.read()
    takes_the_next(bench)


def test_one_that_fills_its_disk(settings: Settings, store: JobStore, disk_of: DiskOf) -> None:
    small = settings.model_copy(update={"scratch_dir": disk_of("24m")})
    bench = Bench(small, store)
    fills = "open('large.bin', 'wb').write(bytes(50_000_000))"
    job = bench.run(python(fills, retry={"max_failures": 1, "backoff_seconds": 0}))
    # Tried again: another worker may have a larger disk.
    assert job.state is State.QUEUED
    (attempt,) = job.attempts
    assert attempt.reason is Reason.ERROR
    assert attempt.message.startswith("the worker's scratch disk is full: of its 25.2 MB, ")
    # Its last words had no room either.
    assert attempt.message.endswith(" are this attempt's: exit code 1")
    takes_the_next_of(store, bench, job)


def takes_the_next_of(store: JobStore, bench: Bench, job: Job) -> None:
    store.request(job.id, Request.CANCEL)
    takes_the_next(bench)


def test_one_that_ignores_every_signal(
    settings: Settings, store: JobStore, wait_until: Wait
) -> None:
    bench = Bench(settings.model_copy(update={"grace_seconds": 1.0}), store)
    job = bench.claim(python(STUBBORN))
    thread = bench.begin(job)
    wait_until(lambda: "up" in bench.output(job), what="the program")
    store.request(job.id, Request.CANCEL)
    bench.shutdown_state.notify_request()
    thread.join(60)
    job = store.get(job.id)
    assert (job.state, job.attempts[0].exit_code) == (State.CANCELLED, 137)
    takes_the_next(bench)
