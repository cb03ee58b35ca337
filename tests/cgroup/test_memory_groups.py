"""In a control group that may be divided, the kernel kills a job alone for lack of memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.messages import Messenger
from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from machine.control_groups import ROOT, SERVICE, remove
from tests.integration.one_worker import python, worker_settings

pytestmark = pytest.mark.cgroup

Wait = Callable[..., Any]
LIMIT = 768 << 20
# Its helper needs no memory, and has to end with it.
HOARDER = """
import pathlib, subprocess, sys
helper = subprocess.Popen(["sleep", "600"])
print("helper", helper.pid, pathlib.Path("/proc/self/cgroup").read_text().strip(), flush=True)
hoard = [bytearray(b"x" * (1 << 20)) for _ in range(1000)]
"""
SMALL = {
    "model": {"type": "wave", "d_model": 16, "num_layers": 1, "num_heads": 2, "num_waves": 2,
              "num_harmonics": 2, "block_size": 16},
    "batch_size": 2, "plot_every": 0, "sample_tokens": 0,
}  # fmt: skip


@pytest.fixture
def unit(wait_until: Wait) -> Iterator[Path]:
    """A group of 768 MiB, as systemd makes one for a unit with `Delegate=memory`."""
    controllers = ROOT / "cgroup.subtree_control"
    assert controllers.exists(), "these tests need control groups of version 2"
    assert "memory" in controllers.read_text().split(), "the memory controller is not in version 2"
    group = ROOT / f"spectrain-test-{os.getpid()}"
    group.mkdir()
    os.setxattr(group, "user.delegate", b"1")
    (group / "memory.max").write_text(str(LIMIT))
    if (group / "memory.swap.max").exists():
        (group / "memory.swap.max").write_text("0")
    yield group
    (group / "cgroup.kill").write_text("1")
    wait_until(lambda: remove(group), what="the removal of the group")


class Machine:
    """Starts programs of the service in a group, and jobs."""

    def __init__(self, settings: Settings, store: JobStore, unit: Path, tmp_path: Path) -> None:
        self._environment = {**os.environ, **worker_settings(settings),
                             "SPECTRAIN_WARM_START": "0"}  # fmt: skip
        self._store, self._unit, self._log = store, unit, tmp_path / "log"
        self._messenger = Messenger(settings, store)
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a command in the group, as systemd does."""
        joins = f"echo $$ > {self._unit}/cgroup.procs; "
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", joins + 'exec "$@"', "sh", *command],
                env={**self._environment, **environment},
                stdout=log, stderr=log,
            )  # fmt: skip
        self.started.append(process)
        return process

    def worker(self, **environment: str) -> subprocess.Popen[bytes]:
        return self.start(sys.executable, "-P", "-m", "worker", **environment)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def submit(self, script: str, **spec: object) -> Job:
        return self.submit_spec(python(script, **spec).model_dump(mode="json", exclude_unset=True))

    def submit_spec(self, spec: dict[str, Any]) -> Job:
        job = self._store.submit(JobSpec.model_validate(spec))
        self._messenger.flush(self._store.now())
        return job

    def ended(self, job: Job, wait_until: Wait) -> Job:
        wait_until(
            lambda: self._store.get(job.id).state.is_final, seconds=200, what="the end of the job"
        )
        return self._store.get(job.id)


@pytest.fixture
def machine(settings: Settings, store: JobStore, unit: Path, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(settings, store, unit, tmp_path)
    yield machine
    for process in machine.started:
        process.kill()
        process.wait()


def helpers(settings: Settings, job: Job) -> list[tuple[int, str]]:
    """The ids of the helpers that the job's programs have started, and the programs' groups."""
    output = Path(settings.storage_url.removeprefix("file://"), job.id, "logs/output.log")
    said = [line.split() for line in output.read_text().splitlines() if "helper" in line]
    return [(int(words[-2]), words[-1]) for words in said]


def groups(unit: Path) -> list[str]:
    return sorted(path.name for path in unit.iterdir() if path.is_dir())


@pytest.mark.parametrize("whole", ["0", "1"], ids=["as under systemd", "as on Kubernetes"])
def test_a_job_is_killed_alone_and_its_worker_runs_the_next(
    machine: Machine, unit: Path, wait_until: Wait, settings: Settings, whole: str
) -> None:
    """Also where `memory.oom.group` would end the whole group."""
    (unit / "memory.oom.group").write_text(whole)
    worker = machine.worker()
    job = machine.submit(HOARDER, retry={"out_of_memory": True, "max_failures": 1,
                                         "backoff_seconds": 0})  # fmt: skip
    ended = machine.ended(job, wait_until)
    assert (ended.state, ended.reason) == (State.FAILED, Reason.OUT_OF_MEMORY)
    assert [attempt.reason for attempt in ended.attempts] == [Reason.OUT_OF_MEMORY] * 2
    assert {attempt.worker for attempt in ended.attempts} == {ended.attempts[0].worker}
    assert "its memory limit, 0.38 of the 0.75 GiB" in ended.message
    said = helpers(settings, job)
    assert len(said) == 2
    for pid, group in said:
        assert f"/attempt-{job.id}." in group, "it runs in a group of its own"
        assert not psutil.pid_exists(pid), "its helper ends with it"
    after = machine.ended(machine.submit("print('there is room again')"), wait_until)
    assert after.reason is Reason.COMPLETED
    assert worker.poll() is None
    wait_until(lambda: groups(unit) == [SERVICE], what="the removal of the attempts' groups")


def test_a_program_of_the_fork_server_is_killed_alone(
    machine: Machine, unit: Path, wait_until: Wait, settings: Settings, tmp_path: Path
) -> None:
    (unit / "memory.oom.group").write_text("1")
    script = tmp_path / "hoarder.py"
    script.write_text("import sys\nassert 'torch' in sys.modules\n" + HOARDER)
    worker = machine.worker(SPECTRAIN_WARM_START="1")
    # It waits for the fork server.
    first = machine.submit_spec({"name": "first", "train": {**SMALL, "steps": 2}})
    assert machine.ended(first, wait_until).reason is Reason.COMPLETED
    job = machine.submit_spec({"name": "a", "command": ["python", str(script)]})
    ended = machine.ended(job, wait_until)
    assert ended.reason is Reason.OUT_OF_MEMORY
    assert "reached its memory limit" in ended.message
    assert len(helpers(settings, job)) == 1
    assert worker.poll() is None


def test_what_a_killed_worker_left_is_removed_by_the_next(
    machine: Machine, unit: Path, wait_until: Wait, store: JobStore
) -> None:
    worker = machine.start("sh", "-c", f"while true; do {sys.executable} -P -m worker; done")
    job = machine.submit("import time; time.sleep(600)")
    wait_until(lambda: len(groups(unit)) == 2, what="the group of the attempt")
    (first,) = psutil.Process(worker.pid).children()
    first.kill()
    left = next(name for name in groups(unit) if name != SERVICE)
    wait_until(lambda: store.get(job.id).state is State.QUEUED, what="the end of the attempt")
    wait_until(lambda: left not in groups(unit), what="the removal of what was left")
    wait_until(lambda: store.get(job.id).state is State.RUNNING, what="the next attempt")


def test_workers_that_share_a_group_do_not_divide_it_and_run_their_jobs(
    machine: Machine, unit: Path, wait_until: Wait
) -> None:
    both = f"{sys.executable} -P -m worker & {sys.executable} -P -m worker & wait"
    machine.start("sh", "-c", both)
    wait_until(lambda: machine.log.count("pool default") == 2, seconds=100, what="two workers")
    ended = machine.ended(machine.submit("print('well')"), wait_until)
    assert ended.reason is Reason.COMPLETED
    assert groups(unit) == []
    assert machine.log.count("other processes share it") == 2


def test_the_workers_of_one_service_share_a_divided_group(
    machine: Machine, unit: Path, wait_until: Wait, tmp_path: Path
) -> None:
    """As under `spectrain up`, whose Redis and API must outlive the job as well."""
    command = str(Path(sys.executable).with_name("spectrain"))
    options = {"--data": str(tmp_path / "up"), "--port": "0", "--workers": "2", "--device": "cpu"}
    service = machine.start(command, "up", *chain(*options.items()))
    wait_until(lambda: "Spectrain is up" in machine.log, seconds=150, what="the service")
    processes = psutil.Process(service.pid).children(recursive=True)
    jobs = [machine.submit(HOARDER) for _ in range(2)]
    for job in jobs:
        assert machine.ended(job, wait_until).reason is Reason.OUT_OF_MEMORY
    assert {p.pid for p in processes} <= {
        p.pid for p in psutil.Process(service.pid).children(recursive=True)
    }
    wait_until(lambda: groups(unit) == [SERVICE], what="the removal of the attempts' groups")


def test_a_group_that_nobody_delegated_stays_whole(
    machine: Machine, unit: Path, wait_until: Wait
) -> None:
    os.setxattr(unit, "user.delegate", b"0")
    machine.worker()
    ended = machine.ended(machine.submit(HOARDER), wait_until)
    assert ended.reason is Reason.OUT_OF_MEMORY
    assert "the machine or the container is out of memory" in ended.message
    assert groups(unit) == []
