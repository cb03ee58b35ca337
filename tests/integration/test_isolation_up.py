"""`spectrain up`: who may read what it writes, and what its processes were given."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.client import Client
from api.local.redis_server import free_port
from machine.python import python_module
from machine.stopped import Stopped
from tests.processes import command_line

Wait = Callable[..., Any]
TOKEN = "q7wk-zv-a-token-that-is-long-enough"


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Client]]]:
    """Starts `spectrain up` with a data directory of the test."""
    started: list[subprocess.Popen[bytes]] = []
    clients: list[Client] = []

    def start(**settings: str) -> tuple[subprocess.Popen[bytes], Client]:
        port = free_port()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SPECTRAIN", "REDIS"))}
        env = {
            **kept,
            "SPECTRAIN_API_TOKENS": TOKEN,
            "SPECTRAIN_WARM_START": "0",
            "MY_DB_PASSWORD": "of the service",
            **settings,
        }
        words = ["up", "--data", str(tmp_path / "data"), "--port", str(port), "--device", "cpu"]
        with (tmp_path / "up.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    python_module("api.cli", *words), env=env, stdout=log, stderr=log,
                    umask=0o022,
                )
            )  # fmt: skip
        clients.append(Client(f"http://127.0.0.1:{port}", token=TOKEN, patience=60))
        return started[-1], clients[-1]

    yield start
    for client in clients:
        client.close()
    for process in started:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def finished(client: Client, wait_until: Wait, **spec: Any) -> str:
    """The id of a job that has succeeded."""
    job = client.submit({"name": "a", **spec})
    wait_until(lambda: client.get(job.id).state.is_final, what="its end")
    assert client.get(job.id).state == "succeeded", client.get(job.id)
    return job.id


def below(folder: Path, but: Path) -> Iterator[Path]:
    """Yields what is in `folder`, without what is in `but`, which a worker empties meanwhile."""
    for path in folder.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink() and path != but:
            yield from below(path, but)


def test_only_its_user_reads_what_the_service_writes(
    up: Callable[..., Any], tmp_path: Path, wait_until: Wait
) -> None:
    (tmp_path / "data/logs").mkdir(parents=True)
    (tmp_path / "data/logs").chmod(0o755)  # as an earlier version has made it
    _, client = up()
    # A program's own umask is what it was: others read its files where the directories let them.
    job = finished(client, wait_until, command=["sh", "-c", "umask; echo text >file"])
    kept = list(below(tmp_path / "data", but=tmp_path / "data/scratch"))
    assert job in {path.name for path in kept}
    open_to_others = [
        path
        for path in kept
        if not path.is_symlink() and stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]
    assert open_to_others == []
    assert "0022" in (tmp_path / "data/experiments" / job / "logs/output.log").read_text()


def test_a_setting_opens_them_to_a_group(
    up: Callable[..., Any], tmp_path: Path, wait_until: Wait
) -> None:
    _, client = up(SPECTRAIN_UMASK="007")
    job = finished(client, wait_until, command=["true"])
    log = tmp_path / "data/experiments" / job / "logs/output.log"
    assert stat.S_IMODE(log.stat().st_mode) & 0o077 == 0o060
    assert stat.S_IMODE(log.parent.stat().st_mode) & 0o077 == 0o070


def test_each_process_is_given_what_it_needs_and_no_more(
    up: Callable[..., Any], wait_until: Wait
) -> None:
    process, client = up()
    wait_until(client.workers, what="the worker")
    parts = psutil.Process(process.pid).children()
    worker = next(p for p in parts if command_line(p)[-2:] == ["-m", "worker"])
    assert TOKEN not in worker.environ().values()
    redis = next(p for p in parts if "redis-server" in " ".join(command_line(p)))
    assert set(redis.environ()) <= {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TZ"}


@pytest.mark.parametrize("others", [[], ["worker.losses.witness"]])
def test_a_worker_that_its_job_has_stopped_goes_on_by_itself(
    up: Callable[..., Any], wait_until: Wait, others: list[str]
) -> None:
    process, client = up(SPECTRAIN_LEASE_SECONDS="2")
    script = (
        "import os, psutil, signal\n"
        "if os.environ['SPECTRAIN_ATTEMPT'] == '1':\n"
        "    worker = psutil.Process().parent().parent()\n"
        f"    for process in [*worker.children(), worker]:\n"
        f"        if process == worker or process.cmdline()[-1] in {others}:\n"
        "            process.send_signal(signal.SIGSTOP)\n"
        "    signal.pause()\n"
    )
    job = finished(client, wait_until, command=["python", "-c", script])
    assert client.get(job).attempt == 2
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert not psutil.wait_procs(family, timeout=30)[1], "a stopped witness ends too"


def test_a_stopped_process_is_continued_after_its_time_and_not_before(wait_until: Wait) -> None:
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        stopped = Stopped(sleeper.pid, seconds=0.2)
        assert stopped.check() is None
        sleeper.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED)
        assert stopped.check() is None
        deadline = time.monotonic() + 30
        while (seconds := stopped.check()) is None:
            assert time.monotonic() < deadline
        assert seconds >= 0.2
        wait_until(
            lambda: psutil.Process(sleeper.pid).status() != psutil.STATUS_STOPPED,
            what="a sleeper that goes on",
            seconds=20,
        )
    finally:
        sleeper.kill()
        sleeper.wait()
