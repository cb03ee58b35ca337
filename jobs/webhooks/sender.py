"""Delivers notices from a thread of the API, through outages of Redis and of their receivers."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import defaultdict
from urllib.parse import urlsplit

from jobs.errors import STORE_AWAY
from jobs.settings import Settings, connect
from jobs.webhooks.message import Noticed
from jobs.webhooks.outbox import Outbox
from jobs.webhooks.post import NotDeliveredError, Poster

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0
_AT_ONCE = 8  # hosts
_BATCH = 64
_MOST_TRIES = 16
_FIRST_SECONDS, _LONGEST_SECONDS = 5.0, 3600.0  # between two tries, the latter after nine

Tried = tuple[Noticed, int]  # the notice, and the number of its earlier tries


class Sender:
    """Repeats passes over the outbox; any number of processes may do so at once.

    A host that is slow delays its own notices only: each has one thread at a time, and after a
    failure the others wait as well.
    """

    def __init__(self, settings: Settings) -> None:
        self._redis = connect(settings)
        self._outbox = Outbox(self._redis, settings.redis_prefix)
        self._secret = settings.webhook_secret
        self._poster = Poster(anywhere=settings.webhook_private)
        self._stop = threading.Event()
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Starts the thread."""
        threading.Thread(target=self._repeat, name="webhooks", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread; what it has not delivered stays in the outbox."""
        self._stop.set()

    def run_once(self) -> int:
        """One pass: gives what is due to the threads of its hosts; the number of notices."""
        by_host: dict[str, list[Tried]] = defaultdict(list)
        taken = self._outbox.take(_BATCH)
        for notice, tries in taken:
            by_host[urlsplit(notice.url).netloc].append((notice, tries))
        for host, notices in by_host.items():
            with self._lock:
                must_wait = host in self._busy or len(self._busy) >= _AT_ONCE
                if not must_wait:
                    self._busy.add(host)
            if must_wait:
                for notice, tries in notices:
                    self._outbox.postpone(notice, tries, _PAUSE_SECONDS)
            else:  # a daemon: the end of the process does not wait for a slow host
                threading.Thread(
                    target=self._deliver, args=(host, notices), name=f"webhooks {host}", daemon=True
                ).start()
        return len(taken)

    def _deliver(self, host: str, notices: list[Tried]) -> None:
        try:
            failed = False
            for notice, tries in notices:
                if failed or self._stop.is_set():
                    self._outbox.postpone(notice, tries, _delay(tries + 1))
                else:
                    failed = not self._try(notice, tries)
        except STORE_AWAY as error:
            log.info("notices for %s are sent again later: %s", host, error)
        except Exception:
            log.exception("cannot deliver the notices for %s", host)
        finally:
            with self._lock:
                self._busy.discard(host)

    def _try(self, notice: Noticed, tries: int) -> bool:
        body, kind = notice.body()
        headers = notice.headers(body, kind, self._secret, time.time())
        try:
            self._poster.post(notice.url, body, headers)
        except NotDeliveredError as error:
            tries += 1
            if error.for_good or tries >= _MOST_TRIES:
                log.warning("notice %s is given up: %s", notice.id, error)
                self._outbox.give_up(notice, str(error))
            else:
                self._outbox.postpone(notice, tries, _delay(tries))
            return False
        self._outbox.delivered(notice)
        return True

    def _repeat(self) -> None:
        away = False
        while not self._stop.is_set():
            found = 0
            try:
                found = self.run_once()
                away = False
            except STORE_AWAY as error:
                if not away:
                    log.warning("no notices are sent while Redis is unreachable: %s", error)
                away = True
            except Exception:
                log.exception("a pass over the notices failed; it is repeated")
            self._stop.wait(0.05 if found == _BATCH else _PAUSE_SECONDS)


def _delay(tries: int) -> float:
    """Seconds until the next try; doubles each time."""
    return min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0 ** (tries - 1)) * random.uniform(1, 1.25)
