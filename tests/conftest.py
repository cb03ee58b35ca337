"""Servers that tests share: each is started once, on a free port, and stopped by its handle."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from redis import Redis

from bench.system.service import redis_server as running_redis
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore

Condition = Callable[[], Any]

# How fast a machine is that does other things too is no property of the code.
hypothesis_settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("tests")

# Ignored where the tests run by nohup or in the background of a script; what they start would go on
# ignoring them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# torch sets it on import: a job would have another environment than the fork server of its worker.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_tests")
# The command line remembers there what it has packed.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="spectrain-tests-")
# And there it looks for profiles: those of the person who runs the tests are not for them.
os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_CACHE_HOME"]
_GIVEN = dict(os.environ)


@pytest.fixture(autouse=True)
def given_environment() -> None:
    """Each test begins with the environment that pytest was given: torch adds to it on import."""
    for name in os.environ.keys() - _GIVEN.keys():
        if not name.startswith("PYTEST_"):
            del os.environ[name]
    os.environ.update(_GIVEN)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """Waits for a condition and returns its value; fails with `what` after `seconds`."""

    def wait(condition: Condition, *, what: str = "the condition", seconds: float = 60) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(0.02)
        return pytest.fail(f"{what} did not come about within {seconds} s")

    return wait


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis server that lives as long as the tests."""
    with running_redis(tmp_path_factory.mktemp("redis")) as config:
        yield config.url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis."""
    with Redis.from_url(redis_server) as redis:
        redis.flushall()
    return redis_server


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """Settings of a service of the test's own, with a short lease."""
    return Settings(
        redis_url=redis_url,
        storage_url=(tmp_path / "experiments").as_uri(),
        scratch_dir=tmp_path / "scratch",
        device="cpu",
        lease_seconds=3,
        grace_seconds=30,
    )


@pytest.fixture
def store(settings: Settings) -> Iterator[JobStore]:
    """The job store of those settings."""
    redis = connect(settings)
    yield JobStore(redis, prefix=settings.redis_prefix, lease_seconds=settings.lease_seconds)
    redis.close()
