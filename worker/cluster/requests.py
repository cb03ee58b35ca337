"""Listens for notifications of requests to a worker or its job, so that it reads them at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from jobs.errors import STORE_AWAY
from jobs.settings import Settings, connect
from jobs.store.keys import Keys

log = logging.getLogger(__name__)

_LISTEN_SECONDS = 5.0
_RETRY_SECONDS = 1.0


class RequestListener:
    """Listens in a thread of its own, with a connection of its own, through outages of Redis.

    A notification only says that there is something to read. A lost one does no harm: each renewal
    of the lease and of the registry entry reads the requests too, only later.
    """

    def __init__(self, settings: Settings, worker: str, on_request: Callable[[], None]) -> None:
        self._settings = settings
        self._channel = Keys(settings.redis_prefix).requests(worker)
        self._on_request = on_request
        self._stopping = threading.Event()

    def start(self) -> None:
        """Starts listening."""
        threading.Thread(target=self._run, name="requests", daemon=True).start()

    def stop(self) -> None:
        """Ends listening, a moment later."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except STORE_AWAY as error:
                log.debug("cannot listen for requests: %s", error)
            except Exception:  # the renewals read the requests too
                log.exception("cannot listen for requests; the renewals read them a little later")
            self._stopping.wait(_RETRY_SECONDS)

    def _listen(self) -> None:
        with connect(self._settings) as redis, redis.pubsub() as messages:
            messages.subscribe(self._channel)
            while not self._stopping.is_set():
                # The confirmation of the subscription counts: earlier messages may be lost.
                if messages.get_message(timeout=_LISTEN_SECONDS) is not None:
                    self._on_request()
