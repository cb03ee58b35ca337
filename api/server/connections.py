"""The HTTP server of the API: waitress, whose one loop waits for all clients, however slow.

A thread is given to a request only when it is there as a whole, so clients that send nothing, or
half a request, take no thread. Two things are added. Bodies are taken from those only who may
send them, since they wait in memory and on disk. And calls that may wait for storage, or for a
client that reads slowly, have threads of their own: they never hold up the others, nor the answer
that this process lives.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType
from typing import Any

from flask import Flask
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher
from werkzeug.exceptions import HTTPException

# Threads by what their calls wait for: nothing, Redis, storage, a client that downloads.
_THREADS = {"health": 2, "records": 16, "runs": 12, "downloads": 64}
_DOWNLOADS = {"runs.get_artifact", "runs.get_archive"}
_STORAGE = {"runs", "workspaces", "forks", "jobs.delete_job"}
_HEALTH = "health.get_health"
_IDLE_SECONDS = 60
_LONGEST_HEADER = 64 << 10
_MOST_CONNECTIONS = 10_000
_OWN_FILES = 256  # descriptors for everything but clients
_END_SECONDS = 5.0  # for requests in progress when the server is told to end
_POLL_SECONDS = 0.05

# How many bytes of body are taken, by path, headers (named as in CGI, without `HTTP_`) and address.
BodyLimit = Callable[[str, Mapping[str, str], str], int]


def serve(app: Flask, listener: socket.socket, body_limit: BodyLimit) -> None:
    """Serves `app` on a socket that listens, until SIGTERM; raises `SystemExit` then."""
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # that requests wait is no news
    threads = _Threads(app)
    server = create_server(
        app,
        _dispatcher=threads,
        sockets=[listener],
        connection_limit=_connections(),
        asyncore_use_poll=True,
        channel_timeout=_IDLE_SECONDS,
        cleanup_interval=5,
        max_request_header_size=_LONGEST_HEADER,
        max_request_body_size=1 << 62,  # the parser below decides
        ident=None,
        # The application itself knows which proxies to trust.
        clear_untrusted_proxy_headers=False,
    )
    server.channel_class = _channel_class(body_limit)
    signal.signal(signal.SIGTERM, _Ending(server))
    server.run()


def _connections() -> int:
    """How many clients this process can hold: as many as the system allows it files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OWN_FILES
    most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(64, most - _OWN_FILES)


class _Threads:
    """Threads that answer requests, in groups by what the calls of each wait for."""

    def __init__(self, app: Flask) -> None:
        self._routes = app.url_map.bind("localhost")
        self._groups = {name: ThreadedTaskDispatcher() for name in _THREADS}
        for name, group in self._groups.items():
            group.set_thread_count(_THREADS[name])

    def add_task(self, channel: HTTPChannel) -> None:
        """Has the first request of a connection answered."""
        request = channel.requests[0]
        self._groups[self._group_of(request.command, request.path)].add_task(channel)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 0.2) -> bool:
        """Ends the threads; those that still answer have had their time before."""
        ended = [group.shutdown(cancel_pending, timeout) for group in self._groups.values()]
        return all(ended)

    def _group_of(self, method: str, path: str) -> str:
        try:
            endpoint, _ = self._routes.match(path, method)
        except HTTPException:  # no such path, or method
            return "health"
        if endpoint == _HEALTH:
            return "health"
        if endpoint in _DOWNLOADS:
            return "downloads"
        return "runs" if {endpoint, endpoint.partition(".")[0]} & _STORAGE else "records"


def _channel_class(body_limit: BodyLimit) -> type[HTTPChannel]:
    class Channel(HTTPChannel):  # type: ignore[misc]
        def __init__(self, server: Any, sock: Any, addr: Any, *rest: Any, **options: Any) -> None:
            super().__init__(server, sock, addr, *rest, **options)
            self.parser_class = partial(_Parser, limit_of=body_limit, address=str(addr[0]))

    return Channel


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """Takes a request without its body, if that is more than the client may send.

    The application sees the headers, and refuses it in its own words; then the connection ends.
    """

    completed: bool
    headers: dict[str, str]

    def __init__(self, adjustments: Any, *, limit_of: BodyLimit, address: str) -> None:
        super().__init__(adjustments)
        self._limit_of, self._address = limit_of, address
        self._limit: int | None = None

    def received(self, data: bytes) -> int:
        """Takes bytes of the request; returns how many."""
        taken: int = super().received(data)
        if self.completed or not self.headers_finished or self.error is not None:
            return taken
        if self._limit is None:
            self._limit = self._limit_of(self.path, self.headers, self._address)
        if max(self.content_length, self.body_bytes_received) > self._limit:
            self.headers["CONTENT_LENGTH"] = str(max(self.content_length, self._limit + 1))
            self.headers["CONNECTION"] = "close"
            self.expect_continue = False
            self.close()
            self.body_rcv = None
            self.completed = True
        return taken


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
