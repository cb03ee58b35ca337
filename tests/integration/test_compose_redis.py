"""The Redis of docker-compose.yml, as its command configures it, and who may do what in it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from api.local.redis_server import find_redis_server, free_port
from bench.system.service import wait_for
from jobs.redis_users import rules
from jobs.settings import Settings, connect
from jobs.store.keys import Keys
from tests.unit.images.test_compose import DEPLOY, SERVICES

KEYS = Keys(Settings().redis_prefix)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    script = tmp_path / "deploy/compose/secrets.sh"
    script.parent.mkdir(parents=True)
    script.write_text((DEPLOY / "secrets.sh").read_text())
    subprocess.run(["sh", str(script)], check=True, capture_output=True)
    return tmp_path / "secrets"


@pytest.fixture
def port(secrets: Path, tmp_path: Path) -> Iterator[int]:
    """Its port, of a server that the command of the service starts."""
    found, (script,) = free_port(), SERVICES["redis"]["command"]
    places = {
        "exec redis-server": f"exec {find_redis_server()}",
        "/run/secrets": str(secrets),
        "dir /data": f"dir {tmp_path}\nport {found}",
        "$$": "$",
    }
    for container, here in places.items():
        script = script.replace(container, here)
    server = subprocess.Popen(["sh", "-c", script], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: server.poll() is not None or answers(found))
        assert server.poll() is None
        yield found
    finally:
        server.terminate()
        server.wait()


def answers(port: int) -> bool:
    try:
        with Redis(port=port) as redis:
            redis.ping()
    except AuthenticationError:
        return True
    except OSError:
        return False
    return True


def client(service: str, port: int, secrets: Path) -> Redis:
    """As a service reaches it by its environment."""
    environment = SERVICES[service]["environment"]
    url = environment["SPECTRAIN_REDIS_URL"].replace("redis:6379", f"127.0.0.1:{port}")
    secret = environment["SPECTRAIN_REDIS_PASSWORD_FILE"].removeprefix("/run/secrets/")
    assert secret in SERVICES[service]["secrets"]
    return connect(Settings(redis_url=url, redis_password=(secrets / secret).read_text()))


def test_api_workers_and_reaper_are_users_of_their_own(port: int, secrets: Path) -> None:
    with client("api", port, secrets) as redis:
        assert redis.execute_command("ACL WHOAMI") == "default"
        redis.hset(KEYS.tokens, "t", "secret")
    for service in ("worker", "worker-gpu", "reaper"):
        with client(service, port, secrets) as redis:
            redis.hset(KEYS.job("a"), "id", "a")
            for forbidden in (f"HGETALL {KEYS.tokens}", "FLUSHALL", "CONFIG GET requirepass"):
                with pytest.raises(NoPermissionError):
                    redis.execute_command(*forbidden.split())
    with Redis(port=port) as nobody, pytest.raises(AuthenticationError):
        nobody.ping()


@pytest.mark.parametrize("role", ["worker", "reaper"])
def test_the_rules_are_those_of_the_service(role: str) -> None:
    (script,) = SERVICES["redis"]["command"]
    (line,) = [line for line in script.splitlines() if line.startswith(f"user spectrain-{role} ")]
    password = f"$$(cat /run/secrets/redis-{role}-password)"
    expected = rules("worker" if role == "worker" else "reaper", "spectrain:")
    assert line == f"user spectrain-{role} on >{password} {expected}"


def test_only_api_and_redis_have_the_password_of_everything() -> None:
    holders = {name for name, one in SERVICES.items() if "redis-password" in one.get("secrets", [])}
    assert holders == {"api", "redis"}
