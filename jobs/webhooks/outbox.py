"""The notices that are not delivered yet, in Redis; scripts put them there with their events."""

from __future__ import annotations

import json
import logging

from redis import Redis

from jobs.store.scripts import Scripts
from jobs.webhooks.message import Noticed

log = logging.getLogger(__name__)

# A process that took notices has so long to deliver them before another one may.
_HELD_SECONDS = 120.0


class Outbox:
    """Takes and settles notices; every method may raise one of `jobs.errors.STORE_AWAY`."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._run = Scripts(redis, prefix)

    def take(self, most: int) -> list[tuple[Noticed, int]]:
        """Notices that are due, each with the number of its earlier tries."""
        _, found = self._run("webhooks/take", most, _HELD_SECONDS)
        taken = []
        for notice, content, tries in json.loads(found):
            try:
                taken.append((Noticed.read(notice, content), int(tries)))
            except ValueError as error:
                log.warning("notice %s cannot be read: %s", notice, error)
                self._run("webhooks/settle", notice, "", 0, "", "")
        return taken

    def delivered(self, notice: Noticed) -> None:
        """Removes a notice that was delivered."""
        self._run("webhooks/settle", notice.id, "", 0, notice.job, "")

    def postpone(self, notice: Noticed, tries: int, seconds: float) -> None:
        """Has a notice tried again after so many seconds."""
        self._run("webhooks/settle", notice.id, seconds, tries, notice.job, "")

    def give_up(self, notice: Noticed, why: str) -> None:
        """Removes a notice that cannot be delivered, and says so in the job's events."""
        data = json.dumps({"event": notice.event, "message": why})
        self._run("webhooks/settle", notice.id, "", 0, notice.job, data)
