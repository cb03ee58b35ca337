"""A proxy that makes a service as far away as one on another continent."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator


@contextlib.contextmanager
def far_away(port: int, seconds: float) -> Iterator[str]:
    """The URL of a service of this machine, to which each request takes so much longer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server, port, seconds), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _accept(server: socket.socket, port: int, seconds: float) -> None:
    with contextlib.suppress(OSError):  # the server is closed
        while True:
            client, _ = server.accept()
            service = socket.create_connection(("127.0.0.1", port))
            for pair in ((client, service, seconds), (service, client, 0.0)):
                threading.Thread(target=_forward, args=pair, daemon=True).start()


def _forward(source: socket.socket, target: socket.socket, seconds: float) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            time.sleep(seconds)
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
    if not seconds:
        source.close()
        target.close()
