"""A connection: it takes requests, and holds what its client has not read yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser

from api.server.connections.answer import Pause, Task

# A client that has so much to read gets no more before.
_AHEAD = 256 << 10

# How many bytes of body are taken, by path, headers (named as in CGI, without `HTTP_`) and address.
BodyLimit = Callable[[str, Mapping[str, str], str], int]


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection for which no thread ever waits, however slowly its client reads."""

    request: Any  # the one that is being received

    def __init__(
        self, limit_of: BodyLimit, server: Any, sock: Any, addr: Any, *rest: Any, **options: Any
    ) -> None:
        self._task: Task | None = None
        self._waits = False  # for its client; no thread works for it then
        super().__init__(server, sock, addr, *rest, **options)
        self.parser_class = partial(Parser, limit_of=limit_of, address=str(addr[0]))

    @property
    def is_behind(self) -> bool:
        """Whether the client has to read first."""
        return bool(self.connected and self.total_outbufs_len >= _AHEAD)

    @property
    def is_idle(self) -> bool:
        """Whether it is the client's turn."""
        return self._waits or not self.requests

    @property
    def held_bytes(self) -> int:
        """Bytes of answers that the client has not read, and of bodies that are in no use yet."""
        requests = [*self.requests, *([self.request] if self.request else [])]
        return int(self.total_outbufs_len + sum(r.body_bytes_received for r in requests))

    def waits_for_its_client(self) -> bool:
        """Whether the client has to read first; if so, the loop adds the task again after that."""
        with self.outbuf_lock:
            self._waits = self.is_behind
            return self._waits

    def task_class(self, channel: Channel, request: Any) -> Task:
        """The task of a request: a new one, or that which has begun."""
        if self._task is None or self._task.request is not request:
            self._task = Task(channel, request)
        return self._task

    def service(self) -> None:
        """Answers the first request as far as its client reads; called by a thread."""
        if self._task is not None and not self.connected:
            self._task.give_up()
        try:
            super().service()
        except Pause:
            self.server.add_task(self)

    def handle_write(self) -> None:
        """Sends what the client takes; called by the loop."""
        super().handle_write()
        if self._waits and self.connected and not self.is_behind:
            self._waits = False
            self.server.add_task(self)

    def handle_close(self) -> None:
        """Ends the connection; called by the loop."""
        super().handle_close()
        unused, self.request = [self.request] if self.request else [], None
        if self._waits:
            self._waits = False
            unused += self.requests
            if self._task is not None:
                self._task.give_up()
        for request in unused:
            request.close()

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Does nothing: waitress has its thread wait for the client here."""


class Parser(HTTPRequestParser):  # type: ignore[misc]
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
