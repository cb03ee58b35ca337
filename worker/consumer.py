"""Celery's consumer, which after an outage of Redis is back as soon as Redis is."""

from __future__ import annotations

import time

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu.asynchronous import get_event_loop
from kombu.connection import Connection
from redis.exceptions import ResponseError

_RETRY_SECONDS = 0.5
# After the end of a task, when Celery has surely taken note of it.
_LISTEN_AGAIN_SECONDS = (0.005, 0.05)


class PromptConsumer(Consumer):  # type: ignore[misc]
    """Tries to reach Redis twice a second, however long it has been away.

    Celery's own waits two seconds longer each time, up to thirty, and a word on each try:
    `worker.cluster.registration` says when Redis goes and comes.
    """

    NAME = f"{__module__}:{__qualname__}"

    def ensure_connected(self, conn: Connection) -> Connection:
        """The connection, when there is one; raises when the worker is told to stop."""
        conn.ensure_connection(  # type: ignore[no-untyped-call]
            interval_start=_RETRY_SECONDS,
            interval_step=0,
            interval_max=_RETRY_SECONDS,
            callback=maybe_shutdown,
        )
        self.first_connection_attempt = False
        return conn

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Says why; where Redis refuses, `worker.cluster.registration` does, and this one waits."""
        if isinstance(exc, ResponseError):
            time.sleep(_RETRY_SECONDS)
        else:
            super().on_connection_error_before_connected(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """The same for a connection that there was."""
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, ResponseError):
            time.sleep(_RETRY_SECONDS)


def listen_again() -> None:
    """Has Celery wait for the next message at once.

    While a task runs it does not, and it would notice the end of it up to a second late.
    """
    if (hub := get_event_loop()) is not None:
        for seconds in _LISTEN_AGAIN_SECONDS:
            hub.call_soon(hub.call_later, seconds, lambda: None)  # type: ignore[no-untyped-call]
