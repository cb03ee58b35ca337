"""Starts a service, or only its Redis, for the duration of a measurement."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from api.local.redis_server import RedisConfig, find_redis_server
from api.local.service import LocalService

TIMEOUT_SECONDS = 60.0


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[RedisConfig]:
    """An empty Redis, configured as by `spectrain up`."""
    config = RedisConfig(directory / "redis")
    command = [find_redis_server(), str(config.path)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(config.answers)
        yield config
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def local_service(
    data: Path, *, workers: int, settings: Mapping[str, str] | None = None
) -> Iterator[LocalService]:
    """A separate service on the CPU, with its own Redis unless the settings name one."""
    service = LocalService(data, workers=workers, device="cpu", settings=settings, isolated=True)
    service.start()
    try:
        yield service
    finally:
        service.stop()


def wait_for(condition: Callable[[], object], seconds: float = TIMEOUT_SECONDS) -> None:
    """Waits until `condition` is true; raises `TimeoutError` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition that the benchmark waits for did not come true")
        time.sleep(0.001)
