"""Programs that fail: why, and whether they are tried again."""

from __future__ import annotations

import pytest

from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State
from jobs.store.registry import WorkerRegistry
from tests.integration.one_worker import Bench, python
from worker.attempt.supervisor import supervise


def until_the_end(bench: Bench, spec: JobSpec) -> Job:
    """The job after all its attempts on this worker."""
    job = bench.run(spec)
    while job.state is State.QUEUED:
        again = bench.store.claim("default", "w")
        assert again is not None
        supervise(bench.service, again)
        job = bench.store.get(job.id)
    return job


def test_the_reason_is_the_exception_whatever_else_is_printed(bench: Bench) -> None:
    script = (
        "import atexit\n"
        "atexit.register(lambda: [print('wandb: Find logs at', n) for n in range(60)])\n"
        "def deep(n):\n"
        "    if n == 0:\n"
        "        raise ValueError('\\x1b[31mthe real reason\\x1b[0m')\n"
        "    deep(n - 1) if n % 2 else (deep(n - 1))\n"
        "try:\n"
        "    deep(200)\n"
        "except ValueError as error:\n"
        "    raise RuntimeError('training failed') from error\n"
    )
    job = until_the_end(bench, python(script, retry={"max_failures": 0}))
    assert "exit code 1: ValueError: the real reason (then RuntimeError: t" in job.message
    assert job.attempts[0].log_tail[-1] == "wandb: Find logs at 59"
    assert "ended: error (exit code 1: ValueError: the real reason" in bench.output(job)


def test_the_reason_of_a_kill_is_no_worker_processs(bench: Bench) -> None:
    script = (
        "import multiprocessing, os, signal\n"
        "def load(pipe):\n"
        "    try:\n"
        "        pipe.recv()\n"
        "    finally:\n"
        "        os.kill(os.getppid(), signal.SIGKILL)\n"
        "here, there = multiprocessing.get_context('fork').Pipe()\n"
        "child = multiprocessing.get_context('fork').Process(target=load, args=(there,))\n"
        "child.start(); here.send_bytes(b'no pickle'); child.join()\n"
    )
    job = until_the_end(bench, python(script, retry={"max_failures": 0}))
    assert job.message.startswith("killed by SIGKILL (")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["python", "trian.py"], "can't open file"),
        (["python", "-m", "trian"], "No module named trian"),
        (["python", "-c", "import trian"], "ModuleNotFoundError: No module named 'trian'"),
        (["python", "-c", "def f(:"], "SyntaxError: invalid syntax"),
        (["python", "-c", "import argparse; argparse.ArgumentParser().parse_args()", "--x"],
         "error: unrecognized arguments: --x"),
        (["sh", "-c", "trian --x"], "trian: not found"),
    ],
)  # fmt: skip
def test_a_program_that_cannot_start_ends_its_job_at_once(
    bench: Bench, command: list[str], text: str
) -> None:
    job = bench.run(JobSpec(name="a", command=command))
    assert (job.state, job.reason, job.attempt) == (State.FAILED, Reason.ERROR, 1)
    assert text in job.message
    assert job.message.endswith("(not retried)")


def test_the_same_failure_twice_before_any_step_ends_a_job(bench: Bench) -> None:
    retry = {"max_failures": 5, "backoff_seconds": 0}
    script = "raise ValueError('no data')"
    job = until_the_end(bench, python(script, retry=retry))
    assert (job.state, job.attempt) == (State.FAILED, 2)
    assert job.message.endswith("no data (not retried: attempt 1 failed in the same way)")
    stepping = f"from monitoring import step_counter\nstep_counter.beat(0)\n{script}"
    assert until_the_end(bench, python(stepping, retry=retry)).attempt == 6
    saving = f"open('model.pt', 'wb').write(__import__('os').urandom(50_000))\n{script}"
    assert until_the_end(bench, python(saving, retry=retry)).attempt == 6


def test_a_machine_that_lacks_a_module_condemns_no_job(bench: Bench) -> None:
    registry = WorkerRegistry(
        bench.store.redis, prefix=bench.store.prefix, lease_seconds=bench.store.lease_seconds
    )
    registry.renew("b-1-0f", pool="default", host="b", gpus=[], unhealthy="", leaving="",
                   drained=False)  # fmt: skip
    job = bench.run(python("import trian"))
    assert job.state is State.QUEUED
    again = bench.store.claim("default", "b-1-0f")
    assert again is not None
    supervise(bench.service, again)
    assert bench.store.get(job.id).state is State.FAILED, "the other one lacks it too"


@pytest.mark.parametrize(
    ("retry", "attempts"),
    [({"on_exit_codes": [75]}, 3), ({"not_on_exit_codes": [75]}, 1), ({"on_exit_codes": [3]}, 1)],
)
def test_exit_codes_decide_about_retries(
    bench: Bench, retry: dict[str, list[int]], attempts: int
) -> None:
    script = "import sys; print('try again later'); sys.exit(75)"
    job = until_the_end(bench, python(script, retry={**retry, "backoff_seconds": 0}))
    assert (job.state, job.attempt) == (State.FAILED, attempts)
