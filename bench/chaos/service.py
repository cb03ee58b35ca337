"""Runs `spectrain up` as a process of its own, and finds the processes that it consists of."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from redis import Redis

from api.local.redis_server import free_port
from bench.chaos.schedule import Target
from jobs.settings import Settings, connect
from machine.parent_death import adopt_orphans, die_with_parent
from machine.python import python_module

WORKERS = 3
_START_SECONDS = 120.0
_STOP_SECONDS = 120.0
_END_SECONDS = 15.0
_OUR_OWN = re.compile(r"SPECTRAIN_|REDIS_URL$")


class ServiceError(Exception):
    """The service did something that no strike explains; the message says what."""


@dataclass(frozen=True)
class Training:
    """A training process, with its job and attempt."""

    job: str
    attempt: str
    pid: int
    worker: int | None  # its process id, if it is an ancestor
    guard_stopped: bool


class Service:
    """The service below `data`, started by the users' command.

    Every orphan of it becomes a child of this process, so that no process can hide.
    """

    def __init__(
        self,
        data: Path,
        *,
        lease: float,
        workers: int = WORKERS,
        program: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`program` is started in place of the command line; `settings` override ours."""
        self._workers = workers
        self._program = list(program) or python_module("api.cli")
        self.data = data
        self.storage = data / "experiments"
        self.scratch = data / "scratch"
        self.temporary = data.parent / "tmp"
        self.temporary.mkdir()
        self.output = data.parent / "up.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = {
            **{k: v for k, v in os.environ.items() if not _OUR_OWN.match(k)},
            "SPECTRAIN_LEASE_SECONDS": f"{lease:g}",
            # Jobs of high priority keep evicting others.
            "SPECTRAIN_EVICTION_MIN_SECONDS": f"{lease:g}",
            "SPECTRAIN_GRACE_SECONDS": "20",
            # The last digits of a sum depend on the number of threads.
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.temporary),
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        adopt_orphans()

    def start(self) -> None:
        """Starts the service and waits until it is up; raises `ServiceError`."""
        command = [*self._program, "up", "--data", str(self.data)]
        options = ["--port", str(self.port), "--workers", str(self._workers), "--device", "cpu"]
        with self.output.open("ab") as file:
            self._process = subprocess.Popen(
                [*command, *options],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one thread
            )
        wait_until(
            lambda: "is up at" in self.output.read_text() or not self.running,
            _START_SECONDS,
            "the service to be up",
        )
        self.check()

    @property
    def running(self) -> bool:
        """Whether `spectrain up` runs."""
        return self._process is not None and self._process.poll() is None

    def check(self) -> None:
        """Raises `ServiceError` if `spectrain up` itself, which no strike targets, has ended."""
        if not self.running:
            raise ServiceError(f"`spectrain up` has ended:\n{self.output.read_text()[-2000:]}")

    def stop(self) -> list[str]:
        """Stops the service as Ctrl-C does; returns flaws of its exit and the processes left."""
        if self._process is None:
            return []
        self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(_STOP_SECONDS)
            flaws = [f"`spectrain up` ended with {code}"] if code else []
        except subprocess.TimeoutExpired:
            flaws = [f"`spectrain up` did not end within {_STOP_SECONDS:.0f} s of Ctrl-C"]
        with suppress(ServiceError):
            wait_until(lambda: not self._family(), _END_SECONDS, "the end of all its processes")
        return flaws + [f"left behind: {_title(process)}" for process in self._family()]

    def kill(self) -> None:
        """Kills all processes that are left."""
        while family := self._family():
            for process in family:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(family, timeout=1)

    def find(self, target: Target, *, at_work: bool = False) -> list[list[psutil.Process]]:
        """The processes of this kind, the oldest first, each with those to strike together with it.

        With `at_work` only workers that have a training process, if there are any.
        """
        found = sorted(self._parts(target), key=lambda process: (_born(process), process.pid))
        if at_work and target in {Target.WORKER, Target.MACHINE}:
            working = {one.worker for one in self.training()}
            found = [process for process in found if process.pid in working] or found
        if target is Target.OUTAGE:
            above = [p for p in self._family() if self._is_ours(p.pid)]
            return [[*above, process] for process in found]
        if target is Target.MACHINE:
            return [[process, *_below(process)] for process in found]
        return [[process] for process in found]

    def training(self) -> Iterator[Training]:
        """The live training processes."""
        for process in self._parts(Target.CHILD):
            with suppress(psutil.Error, KeyError):
                env = process.environ()
                job, attempt = env["SPECTRAIN_JOB_ID"], env["SPECTRAIN_ATTEMPT"]
                above = process.parents()
                workers = (p.pid for p in above if _is(p, Target.WORKER))
                held = above[0].status() == psutil.STATUS_STOPPED
                yield Training(job, attempt, process.pid, next(workers, None), held)

    def workers(self) -> set[int]:
        """The process ids of the workers."""
        return {process.pid for process in self._parts(Target.WORKER)}

    def redis(self) -> Redis:
        """A client of its Redis."""
        text = (self.data / "redis" / "redis.conf").read_text()
        values = dict(line.split(maxsplit=1) for line in text.splitlines())
        url = f"redis://:{values['requirepass']}@127.0.0.1:{values['port']}/0"
        return connect(Settings(redis_url=url))

    def _parts(self, target: Target) -> Iterator[psutil.Process]:
        for process in self._family():
            with suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if target is Target.CHILD:
                    above = process.parent()
                    if above is not None and _is(above, Target.GUARD):
                        yield process
                elif _is(process, target):
                    yield process

    def _family(self) -> list[psutil.Process]:
        """All descendants of this process that have not ended."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
                elif process.ppid() == os.getpid() and not self._is_ours(process.pid):
                    os.waitpid(process.pid, os.WNOHANG)  # adopted: reap it
        return found

    def _is_ours(self, pid: int) -> bool:
        return self._process is not None and self._process.pid == pid


def _is(process: psutil.Process, target: Target) -> bool:
    arguments = process.cmdline()
    line = " ".join(arguments)  # a forked process shows a single string
    match target:
        case Target.WORKER | Target.MACHINE:
            return arguments[-2:] == ["-m", "worker"]
        case Target.FORK_SERVER:
            return "-m worker.launch.fork_server " in line
        case Target.GUARD:
            return "-m worker.launch.guard" in line
        case Target.API:
            return "-m api.server.serve" in line
        case Target.REDIS | Target.OUTAGE:
            return "redis-server" in line
        case Target.CHILD:
            return False


def _below(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _born(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        return process.create_time()
    return 0.0


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return f"{process.pid} {' '.join(process.cmdline())[:120]} ({process.status()})"
    return str(process.pid)


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Waits for the condition; raises `ServiceError` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ServiceError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.05)
