"""Reapers in the API, in workers and alone: one at work, and another when that one dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.redis_server import free_port
from jobs.messages import Messenger
from jobs.reaper import Reaper
from jobs.settings import Settings
from jobs.spec import JobSpec
from jobs.states import Reason, State
from jobs.store import JobStore

Wait = Callable[..., Any]
LOCK = "spectrain:reaper"


@pytest.fixture
def service(
    settings: Settings, store: JobStore, tmp_path: Path, wait_until: Wait
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """API, worker and a reaper alone, each with the lock for the first time in turn."""
    environment = {
        **{k: v for k, v in os.environ.items() if k != "REDIS_URL"},
        "SPECTRAIN_REDIS_URL": settings.redis_url,
        "SPECTRAIN_STORAGE_URL": settings.storage_url,
        "SPECTRAIN_SCRATCH_DIR": str(settings.scratch_dir),
        "SPECTRAIN_LEASE_SECONDS": "2",
        "SPECTRAIN_API_PORT": str(free_port()),
        "SPECTRAIN_POOL": "elsewhere",
        "SPECTRAIN_DEVICE": "cpu",
    }
    started = []
    with (tmp_path / "log").open("wb") as log:
        for module in ("api.serve", "worker", "api.reaper"):
            command = [sys.executable, "-m", module]
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            if module == "api.serve":
                wait_until(lambda: holder(store), what="the API's reaper")
    try:
        wait_until(lambda: store.redis.zcard("spectrain:workers"), what="the worker")
        yield started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)


def holder(store: JobStore) -> int | None:
    """The process id of the reaper that is at work."""
    name = store.redis.get(LOCK)
    return int(name.rsplit("-", 2)[1]) if name else None


def another(store: JobStore, than: list[int]) -> int | None:
    pid = holder(store)
    return None if pid in than else pid


def test_whichever_process_is_killed_another_takes_the_reapers_work_over(
    service: list[subprocess.Popen[bytes]], store: JobStore, wait_until: Wait
) -> None:
    lost = store.submit(JobSpec(name="a", command=["true"]))
    short = JobStore(store.redis, lease_seconds=1)
    assert short.claim("default", "silent") is not None
    first = wait_until(lambda: holder(store), what="a reaper")
    assert first in {child.pid for child in psutil.Process(service[0].pid).children()}
    held = [first]
    for _ in range(2):
        os.kill(held[-1], signal.SIGKILL)
        held.append(wait_until(lambda: another(store, held), what="another reaper"))
    wait_until(lambda: store.get(lost.id).state is State.QUEUED, what="the verdict", seconds=30)
    assert store.get(lost.id).attempts[0].reason is Reason.LOST


def test_the_lock_expires_within_a_lease_and_is_given_up_at_a_clean_end(
    settings: Settings, store: JobStore, wait_until: Wait
) -> None:
    messenger = Messenger(settings, store)
    try:
        first, second = (Reaper(store, messenger, lambda _: None) for _ in range(2))
        first.run_once()
        second.run_once()
        assert (first.at_work, second.at_work) == (True, False)
        assert store.redis.pttl(LOCK) + store.lease_seconds / 5 * 1000 < store.lease_seconds * 1000
        second.release()
        assert store.redis.exists(LOCK), "only who holds it gives it up"
        first.release()
        second.run_once()
        assert second.at_work
    finally:
        messenger.close()


def test_a_reaper_that_is_told_to_stop_ends_at_once(
    service: list[subprocess.Popen[bytes]], store: JobStore, wait_until: Wait
) -> None:
    status = Path(f"/proc/{service[2].pid}/status")

    def listens() -> bool:
        """Whether the process has a handler of SIGTERM."""
        caught = re.search(r"SigCgt:\s*(\w+)", status.read_text())
        return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)

    wait_until(listens, what="the reaper's handler")
    service[2].terminate()
    assert service[2].wait(20) == 0
