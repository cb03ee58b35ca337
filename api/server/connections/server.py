"""The HTTP server of the API: waitress, whose one loop waits for all clients, however slow.

A thread is given to a request only when it is there as a whole, so clients that send nothing, or
half a request, take no thread. Four things are added. Bodies are taken from those only who may
send them, since they wait in memory and on disk. Calls that may wait for storage have threads of
their own: they never hold up the others, nor the answer that this process lives. No thread waits
for a client to read: it makes the next block when the last one is sent. And what waits for clients
has a limit, beyond which the connections end that have stood still for longest.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import threading
import time
from functools import partial
from types import FrameType
from typing import Any

from flask import Flask
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from api.server.connections.answer import paced
from api.server.connections.channel import BodyLimit, Channel
from api.server.connections.threads import Threads

_IDLE_SECONDS = 60
_LONGEST_HEADER = 64 << 10
_MOST_CONNECTIONS = 10_000
_OWN_FILES = 256  # descriptors for everything but clients
_MOST_HELD = 384 << 20  # bytes of bodies and answers that wait for clients
_END_SECONDS = 5.0  # for requests in progress when the server is told to end
_POLL_SECONDS = 0.05
log = logging.getLogger(__name__)


def serve(app: Flask, listener: socket.socket, body_limit: BodyLimit, largest_body: int) -> None:
    """Serves `app` on a socket that listens, until SIGTERM; raises `SystemExit` then."""
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # that requests wait is no news
    server = make_server(app, listener, body_limit, max(_MOST_HELD, 2 * largest_body))
    signal.signal(signal.SIGTERM, _Ending(server))
    server.run()


def make_server(
    app: Flask, listener: socket.socket, body_limit: BodyLimit, most_held: int
) -> Server:
    """A server that holds at most `most_held` bytes for its clients."""
    settings = Adjustments(
        connection_limit=_connections(),
        asyncore_use_poll=True,
        channel_timeout=_IDLE_SECONDS,
        cleanup_interval=1,
        max_request_header_size=_LONGEST_HEADER,
        max_request_body_size=1 << 62,  # the parser of the channel decides
        ident=None,
        # The application itself knows which proxies to trust.
        clear_untrusted_proxy_headers=False,
    )
    server = Server(
        paced(app),
        _sock=listener,
        dispatcher=Threads(app),
        adj=settings,
        bind_socket=False,
        sockinfo=(listener.family, listener.type, listener.proto, listener.getsockname()),
    )
    server.channel_class = partial(Channel, body_limit)
    server.most_held = most_held
    return server


class Server(TcpWSGIServer):  # type: ignore[misc]
    """The loop, with a limit on what waits for clients, `most_held` bytes."""

    most_held = _MOST_HELD

    def maintenance(self, now: float) -> None:
        """Ends the connections that stand still for too long; once a second."""
        channels = sorted(self.active_channels.values(), key=lambda channel: channel.last_activity)
        over = sum(channel.held_bytes for channel in channels) - self.most_held
        for channel in channels:
            held = channel.held_bytes if over > 0 else 0
            if held:
                log.warning(
                    "Too much waits for clients: the connection of %s ends", channel.addr[0]
                )
                over -= held
            if held or (channel.is_idle and channel.last_activity < now - _IDLE_SECONDS):
                # Not by `will_close`: that waits until the client takes bytes.
                self.trigger.pull_trigger(channel.handle_close)


def _connections() -> int:
    """How many clients this process can hold: as many as the system allows it files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OWN_FILES
    most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(64, most - _OWN_FILES)


class _Ending:
    """What SIGTERM does: no new connection, an end to the requests in progress, then the exit."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._thread: threading.Thread | None = None
        self._is_due = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handles the signal."""
        if self._is_due:
            raise SystemExit(0)
        if self._thread is None:
            self._thread = threading.Thread(target=self._wait, name="ending", daemon=True)
            self._thread.start()

    def _wait(self) -> None:
        self._server.accepting = False
        until = time.monotonic() + _END_SECONDS
        while time.monotonic() < until and self._is_busy():
            time.sleep(_POLL_SECONDS)
        self._is_due = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _is_busy(self) -> bool:
        """Whether a request is being answered, or an answer being sent."""
        channels = list(self._server.active_channels.values())
        return any(channel.requests or channel.total_outbufs_len for channel in channels)
