"""The word that something was asked of a worker or of its job, so that it is looked at at once."""

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

    The word says nothing but that there is something to look at. One that is missed does no harm:
    each renewal of the lease and of the register's entry looks too, only later.
    """

    def __init__(self, settings: Settings, worker: str, on_asked: Callable[[], None]) -> None:
        self._settings = settings
        self._channel = Keys(settings.redis_prefix).requests(worker)
        self._on_asked = on_asked
        self._stopping = threading.Event()

    def start(self) -> None:
        """Starts listening."""
        threading.Thread(target=self._run, name="requests", daemon=True).start()

    def stop(self) -> None:
        """Listens no more, a moment later."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except STORE_AWAY as error:
                log.debug("cannot listen for requests: %s", error)
            except Exception:  # whatever it is, the renewals look too
                log.exception("cannot listen for requests; they are seen a little later")
            self._stopping.wait(_RETRY_SECONDS)

    def _listen(self) -> None:
        with connect(self._settings) as redis, redis.pubsub() as words:
            words.subscribe(self._channel)
            while not self._stopping.is_set():
                # That it is subscribed is a word, too: what came before it may have been missed.
                if words.get_message(timeout=_LISTEN_SECONDS) is not None:
                    self._on_asked()
