"""A service, or the Redis of one, for as long as a measurement takes."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from api.local.redis_server import RedisConfig, find_redis_server
from api.local.service import LocalService

PATIENCE_SECONDS = 60.0


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[RedisConfig]:
    """A Redis like that of `spectrain up`, empty."""
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
    """A service of its own on the CPU, Redis included unless the settings name one."""
    service = LocalService(data, workers=workers, device="cpu", settings=settings, isolated=True)
    service.start()
    try:
        yield service
    finally:
        service.stop()


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Returns when `condition` is true; raises TimeoutError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what the benchmark waits for did not come about")
        time.sleep(0.001)
