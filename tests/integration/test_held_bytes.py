"""What the API holds for its clients has a limit: whoever stands still for longest loses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from flask import Flask, Response
from waitress import wasyncore

from api.server.connections.server import Server, make_server

MOST = 8 << 20
Wait = Callable[..., object]


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that holds at most 8 MiB for its clients."""
    app = Flask("held")
    app.add_url_rule("/blocks", "blocks", lambda: Response(bytes(1 << 20) for _ in range(64)))
    app.add_url_rule("/whole", "whole", lambda: bytes(16 << 20))
    app.add_url_rule("/taken", "taken", lambda: "taken", methods=["POST"])
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        made = make_server(app, listener, lambda *_: 1 << 30, MOST)
        loop = threading.Thread(target=made.run)
        loop.start()
        yield made
        made.task_dispatcher.shutdown(timeout=20)
        made.trigger.pull_trigger(lambda: close(made))
        loop.join()


def close(server: Server) -> None:
    for channel in list(server.active_channels.values()):
        channel.handle_close()
    wasyncore.close_all(server._map)


def connect(server: Server, stack: ExitStack, sent: bytes) -> socket.socket:
    client = socket.create_connection((server.effective_host, server.effective_port), timeout=20)
    client.sendall(sent)
    return stack.enter_context(closing(client))


def held(server: Server) -> int:
    return sum(channel.held_bytes for channel in list(server.active_channels.values()))


def body(size: int) -> bytes:
    return b"POST /taken HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size


@pytest.mark.parametrize("sent", [body(1 << 29) + bytes(2 << 20), b"GET /whole HTTP/1.1\r\n\r\n"])
def test_what_waits_for_clients_has_a_limit(
    server: Server, wait_until: Wait, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            connect(server, stack, sent)
        wait_until(lambda: "Too much waits" in caplog.text, what="the end of some connections")
        wait_until(lambda: held(server) <= MOST, what="no more than the limit")
        late = connect(server, stack, body(4) + b"more")
        assert late.recv(100).startswith(b"HTTP/1.1 200")


def test_answers_made_in_blocks_stay_below_it(server: Server, wait_until: Wait) -> None:
    with ExitStack() as stack:
        clients = [connect(server, stack, b"GET /blocks HTTP/1.1\r\n\r\n") for _ in range(6)]
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        wait_until(lambda: all(c.is_idle for c in server.active_channels.values()), what="pauses")
        assert held(server) <= MOST
        received = 0
        while data := clients[0].recv(1 << 20):
            received += len(data)
        assert received > 63 << 20


def test_an_answer_that_its_client_leaves_is_ended(server: Server, wait_until: Wait) -> None:
    with ExitStack() as stack:
        for _ in range(6):
            client = connect(server, stack, b"GET /blocks HTTP/1.1\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    wait_until(lambda: not server.active_channels, what="the end of all connections")
