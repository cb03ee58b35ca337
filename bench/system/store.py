"""Starts an object store for benchmarks, and a proxy to it that can refuse connections."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from api.local.redis_server import free_port
from bench.system.service import wait_for

BUCKET = "runs"
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "secret"}
_PARTS = ("s3.port", "filer.port", "volume.port", "master.port", "admin.port")


@contextlib.contextmanager
def s3_store(*, beside_others: bool = False) -> Iterator[tuple[int, int]]:
    """The process id and port of SeaweedFS, the store in docker-compose.yml, with an empty bucket.

    `beside_others`: it gets one processor and the lowest priority.
    """
    ports = {name: free_port() for part in _PARTS for name in (part, f"{part}.grpc")}
    # The bucket's directory in SeaweedFS: it exists once S3 answers.
    bucket = f"http://127.0.0.1:{ports['filer.port']}/buckets/{BUCKET}/"

    def has_bucket() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(bucket).is_success
        return False

    with tempfile.TemporaryDirectory() as directory:
        server = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("weed")), "mini", f"-dir={directory}"),
                *(f"-bucket={BUCKET}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                *(f"-{name}={port}" for name, port in ports.items()),
                *("-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
                "-master.telemetry=false",
            ],
            env={**os.environ, **KEYS},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if beside_others:  # before it starts its threads
            os.setpriority(os.PRIO_PROCESS, server.pid, 19)
            os.sched_setaffinity(server.pid, {max(os.sched_getaffinity(0))})
        try:
            wait_for(has_bucket)
            yield server.pid, ports["s3.port"]
        finally:
            server.terminate()
            server.wait()


def environment(port: int) -> dict[str, str]:
    """The settings of a service that keeps its runs in the store at this port."""
    return {
        **KEYS,
        "SPECTRAIN_STORAGE_URL": f"s3://{BUCKET}/bench",
        "SPECTRAIN_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


class Proxy:
    """A port that forwards to another one; while closed it refuses connections.

    `sent_bytes` counts what its clients send.
    """

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self.sent_bytes = 0
        self._to = port
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self.open()

    def open(self) -> None:
        """Accepts connections."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Refuses connections and closes the existing ones."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        while self._connections:
            with contextlib.suppress(OSError):
                self._connections.pop().shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._connections += [near, far]
                for ends in ((near, far, self._count), (far, near, lambda _: None)):
                    threading.Thread(target=_carry, args=ends, daemon=True).start()

    def _count(self, size: int) -> None:
        with self._lock:
            self.sent_bytes += size


def _carry(one: socket.socket, other: socket.socket, count: Callable[[int], None]) -> None:
    with contextlib.suppress(OSError), one:
        while data := one.recv(1 << 16):
            count(len(data))
            other.sendall(data)
        other.shutdown(socket.SHUT_RDWR)
