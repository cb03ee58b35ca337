"""A job is not trusted with the service: what it finds of others on its machine, and what not."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.model.record import Job
from tests.integration.isolation import (
    FIRST_OF_JOBS,
    LAST_OF_JOBS,
    LOOK_AROUND,
    MARK,
    ORDINARY,
    Place,
    places,
)
from tests.processes import command_line

Wait = Callable[..., Any]
OF_JOBS = f"{FIRST_OF_JOBS}-{LAST_OF_JOBS}"
HOLDS_STILL = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(120)"


@pytest.fixture
def place(wait_until: Wait) -> Iterator[Place]:
    yield from places(wait_until)


def ended(place: Place, job: Job, wait_until: Wait) -> str:
    """The output of a job, once it has ended."""
    wait_until(lambda: place.store.get(job.id).state.is_final, what=f"its end: {place.log}")
    return place.output(job)


def findings(output: str) -> list[str]:
    return [line for line in output.splitlines() if re.search(r"FOUND|OPENED|SAW|Error", line)]


def look_around(place: Place, **spec: Any) -> Job:
    return place.submit(LOOK_AROUND, MARK.encode().hex(), str(place.base), "/dev/shm", **spec)


@pytest.mark.parametrize("warm", ["0", "1"])
def test_a_job_of_an_ordinary_users_worker_finds_none_of_its_secrets(
    place: Place, wait_until: Wait, warm: str
) -> None:
    place.start(ORDINARY, SPECTRAIN_WARM_START=warm)
    other = place.submit(HOLDS_STILL)
    wait_until(lambda: "pid" in place.output(other), what=f"a job of another worker: {place.log}")
    place.start(ORDINARY, SPECTRAIN_WARM_START=warm)
    output = ended(place, look_around(place), wait_until)
    assert f"looked as {ORDINARY} {ORDINARY} []" in output, output
    # The program of the other job is one of the same user: it has none of the service's secrets.
    others = [line for line in findings(output) if HOLDS_STILL[:20] in line]
    assert findings(output) == others, output


def test_a_job_with_a_user_of_its_own_finds_nothing_of_the_service_and_of_other_jobs(
    place: Place, wait_until: Wait
) -> None:
    place.start(SPECTRAIN_JOB_USER=OF_JOBS)
    secret = f"import os; open('mine', 'w').write(os.environ['MINE']); {HOLDS_STILL}"
    other = place.submit(secret, env={"MINE": f"{MARK}-of-a-job"})
    wait_until(lambda: "pid" in place.output(other), what=f"another job: {place.log}")
    place.start(SPECTRAIN_JOB_USER=OF_JOBS)
    output = ended(place, look_around(place), wait_until)
    assert f"looked as {LAST_OF_JOBS} {LAST_OF_JOBS} []" in output, output + place.log
    assert findings(output) == [], output


@pytest.mark.parametrize("settings", [{}, {"SPECTRAIN_JOB_USER": OF_JOBS}])
def test_the_memory_of_a_forked_program_has_none_of_the_workers_secrets(
    place: Place, wait_until: Wait, settings: dict[str, str]
) -> None:
    worker = place.start(None if settings else ORDINARY, **settings, SPECTRAIN_WARM_START="1")

    def fork_server() -> psutil.Process | None:
        children = psutil.Process(worker.pid).children()
        return next((p for p in children if "worker.launch.fork_server" in command_line(p)), None)

    server = wait_until(fork_server, what="the fork server")
    job = place.submit(HOLDS_STILL)
    wait_until(lambda: "pid" in place.output(job), what="its start")
    program = psutil.Process(int(place.output(job).partition("pid ")[2].split()[0]))
    guard = program.parent()
    assert guard is not None
    for process in (server, guard, program):
        assert MARK.encode() not in memory(process.pid), process.cmdline()
    assert MARK.encode() in memory(worker.pid), "else this finds nothing anywhere"


def memory(pid: int) -> bytes:
    """All that a process has in memory that it may write to."""
    found = b""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as mem:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            first, last = (int(word, 16) for word in line.split()[0].split("-"))
            if line.split()[1].startswith("rw"):
                with contextlib.suppress(OSError):  # it was unmapped meanwhile
                    mem.seek(first)
                    found += mem.read(last - first)
    return found
