"""Polls the metadata service for a spot notice and lets the worker leave in time."""

from __future__ import annotations

import contextlib
import http.client
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from jobs.settings import Settings
from worker.spot.notices import Cloud, InvalidAnswerError, Notice, cloud_by_vendor
from worker.spot.services import MetadataService, open_service

log = logging.getLogger(__name__)

# How long the first poll may delay the start of a worker.
_FIRST_POLL_SECONDS = 1.0
_RETRY_SECONDS = 1.0
# Longest time between retries: of a service that has never answered, and of one that has.
_MOST_SECONDS_NEVER, _MOST_SECONDS_AWAY = 300.0, 5.0
# Failures in a row before a warning, for a service that has answered before.
_TOLERATED_FAILURES = 3
# A worker leaves this long before the end of the machine, or the grace plus the margin if longer.
_LEAD_SECONDS, _LEAD_MARGIN_SECONDS = 120.0, 60.0


class SpotWatch:
    """Polls a metadata service in a thread of its own; does nothing without a service.

    It passes the first due notice to `on_notice` and ends, since the worker leaves. A notice that
    is already due when the worker starts is not passed on, since a worker that left would only be
    restarted: `standing` holds its text until it is withdrawn, and each change of it calls
    `on_change`.
    """

    def __init__(
        self,
        service: MetadataService | None,
        *,
        grace_seconds: float,
        on_notice: Callable[[Notice], None],
        on_change: Callable[[], None] = lambda: None,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self.standing = ""
        self._service = service
        self._lead = max(_LEAD_SECONDS, grace_seconds + _LEAD_MARGIN_SECONDS)
        self._on_notice = on_notice
        self._on_change = on_change
        self._wait = wait
        self._polled = threading.Event()
        self._starting = threading.Lock()
        self._started = False
        self._failures = 0
        self._answered = False
        self._warned = False

    def start(self) -> None:
        """Starts polling; returns after the first poll, or shortly if nothing answers."""
        if self._service is not None:
            threading.Thread(target=self._run, args=[self._service], name="spot notices",
                             daemon=True).start()  # fmt: skip
            self._polled.wait(_FIRST_POLL_SECONDS)
        with self._starting:
            self._started = True

    def _run(self, service: MetadataService) -> None:
        while not self._poll(service):
            self._polled.set()
            self._wait(service.pause if self._failures == 0 else self._back_off())

    def _poll(self, service: MetadataService) -> bool:
        """Polls once; whether the worker now leaves."""
        try:
            notice = service.poll()
        except Exception as error:  # no answer may end the worker
            self._failed(error)
            return False
        if self._warned:
            log.info("the metadata service answers again: spot notices are seen")
        self._failures, self._answered, self._warned = 0, True, False
        due = notice if notice is not None and notice.is_due(self._lead) else None
        with self._starting:
            if due is None or self.standing or not self._started:
                self._stand(due)
                return False
        log.warning("%s: the worker shuts down, %.0f s left", due, due.left)
        self._on_notice(due)
        return True

    def _stand(self, notice: Notice | None) -> None:
        text = "" if notice is None else str(notice)
        if bool(text) is not bool(self.standing):
            log.warning(f"{text}: the worker takes no jobs" if text else
                        "the spot notice was withdrawn: the worker takes jobs again")  # fmt: skip
            self.standing = text
            self._on_change()

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        expected = isinstance(error, OSError | http.client.HTTPException | InvalidAnswerError)
        # A service that has answered before may be unavailable for a moment.
        if not self._warned and self._failures >= (_TOLERATED_FAILURES if self._answered else 1):
            self._warned = True
            log.warning("cannot see spot notices, the metadata service gives no valid answer: %s",
                        error, exc_info=not expected)  # fmt: skip

    def _back_off(self) -> float:
        most = _MOST_SECONDS_AWAY if self._answered else _MOST_SECONDS_NEVER
        return min(_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 16), most)


def watched_service(settings: Settings, sys: Path = Path("/sys")) -> MetadataService | None:
    """The metadata service to poll; None outside clouds. Detected without network access."""
    if settings.spot == "off":
        return None
    cloud = _cloud(sys) if settings.spot == "auto" else settings.spot
    return None if cloud is None else open_service(cloud, settings.spot_metadata_url)


def _cloud(sys: Path) -> Cloud | None:
    names = ("sys_vendor", "bios_vendor", "product_name", "chassis_asset_tag")
    dmi = {name: _text(sys / "class/dmi/id" / name) for name in names}
    return cloud_by_vendor(dmi, _text(sys / "hypervisor/uuid"))


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").strip()
    return ""
