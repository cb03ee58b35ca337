"""A Celery consumer that reconnects within a second after an outage of Redis."""

from __future__ import annotations

import logging
import time

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu.asynchronous import get_event_loop
from kombu.connection import Connection
from redis.exceptions import ResponseError

_RETRY_SECONDS = 0.5
# Delays after the end of a task by which Celery has recorded it.
_LISTEN_AGAIN_SECONDS = (0.005, 0.05)


class PromptConsumer(Consumer):  # type: ignore[misc]
    """Tries to reach Redis twice a second, however long the outage.

    Celery's own consumer waits two seconds longer each time, up to thirty, and logs every try; here
    `worker.cluster.registration` logs the beginning and the end of an outage.
    """

    NAME = f"{__module__}:{__qualname__}"

    def ensure_connected(self, conn: Connection) -> Connection:
        """Waits for a connection and returns it; raises if the worker is asked to stop."""
        conn.ensure_connection(  # type: ignore[no-untyped-call]
            interval_start=_RETRY_SECONDS,
            interval_step=0,
            interval_max=_RETRY_SECONDS,
            callback=maybe_shutdown,
        )
        self.first_connection_attempt = False
        return conn

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Logs the error, except a refusal of Redis, which `worker.cluster.registration` logs."""
        if isinstance(exc, ResponseError):
            time.sleep(_RETRY_SECONDS)
        else:
            super().on_connection_error_before_connected(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Logs the error of an established connection, and waits after a refusal of Redis."""
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, ResponseError):
            time.sleep(_RETRY_SECONDS)


def log_outages_briefly() -> None:
    """Makes Celery log a message that it cannot acknowledge as a warning, without a traceback.

    Redis was lost at that moment. The message comes again, and wakes a worker for nothing.
    """
    logging.getLogger("celery.worker.request").addFilter(_shorten)


def _shorten(record: logging.LogRecord) -> bool:
    if record.levelno == logging.CRITICAL:  # of this logger: neither acknowledged nor rejected
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.exc_info = None
    return True


def listen_again() -> None:
    """Makes Celery wait for the next message at once.

    It does not while a task runs, and would notice the end of the task up to a second late.
    """
    if (hub := get_event_loop()) is not None:
        for seconds in _LISTEN_AGAIN_SECONDS:
            hub.call_soon(hub.call_later, seconds, lambda: None)  # type: ignore[no-untyped-call]
