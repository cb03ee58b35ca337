"""Watches for the notice that a cloud takes this machine away."""

from __future__ import annotations

import contextlib
import http.client
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from jobs.settings import Settings
from worker.spot.notices import Cloud, Notice, NotUnderstoodError, cloud_by_vendor
from worker.spot.services import MetadataService, open_service

log = logging.getLogger(__name__)

# What the first look may delay the start of a worker on a cloud.
_FIRST_LOOK_SECONDS = 1.0
_RETRY_SECONDS = 1.0
# Between tries at a service that has never answered, and at one that has.
_MOST_SECONDS_NEVER, _MOST_SECONDS_AWAY = 300.0, 5.0
_BLIPS = 3
# Nobody leaves a machine earlier than so long before its end, or the grace and this margin.
_LEAD_SECONDS, _LEAD_MARGIN_SECONDS = 120.0, 60.0


class SpotWatch:
    """Asks a metadata service in a thread of its own; without a service it does nothing.

    The first notice that is due is given to `on_notice`, and that is all: the worker leaves. One
    that stands already when the worker starts is not: a worker that left would only be started
    again. `standing` says so until it is withdrawn, and `on_change` is called for both.
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
        self._looked = threading.Event()
        self._starting = threading.Lock()
        self._started = False
        self._failures = 0
        self._answered = False
        self._told = False

    def start(self) -> None:
        """Starts watching; returns after the first look, or soon where nothing answers."""
        if self._service is not None:
            threading.Thread(target=self._run, args=[self._service], name="spot notices",
                             daemon=True).start()  # fmt: skip
            self._looked.wait(_FIRST_LOOK_SECONDS)
        with self._starting:
            self._started = True

    def _run(self, service: MetadataService) -> None:
        while not self._look(service):
            self._looked.set()
            self._wait(service.pause if self._failures == 0 else self._back_off())

    def _look(self, service: MetadataService) -> bool:
        """Looks once; whether the worker was told to leave."""
        try:
            notice = service.look()
        except Exception as error:  # whatever the service says, the worker goes on
            self._failed(error)
            return False
        if self._told:
            log.info("the metadata service answers")
        self._failures, self._answered, self._told = 0, True, False
        due = notice if notice is not None and notice.is_due(self._lead) else None
        with self._starting:
            if due is None or self.standing or not self._started:
                self._stand(due)
                return False
        log.warning("%s: the worker leaves, with %.0f s left", due, due.left)
        self._on_notice(due)
        return True

    def _stand(self, notice: Notice | None) -> None:
        said = "" if notice is None else str(notice)
        if bool(said) is not bool(self.standing):
            log.warning(f"{said}: the worker takes no job" if said else
                        "the spot notice was withdrawn: the worker takes jobs again")  # fmt: skip
            self.standing = said
            self._on_change()

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        expected = isinstance(error, OSError | http.client.HTTPException | NotUnderstoodError)
        # One that has answered before may be away for a moment.
        if not self._told and self._failures >= (_BLIPS if self._answered else 1):
            self._told = True
            log.warning("spot notices cannot be seen, the metadata service does not tell: %s",
                        error, exc_info=not expected)  # fmt: skip

    def _back_off(self) -> float:
        most = _MOST_SECONDS_AWAY if self._answered else _MOST_SECONDS_NEVER
        return min(_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 16), most)


def watched_service(settings: Settings, sys: Path = Path("/sys")) -> MetadataService | None:
    """The metadata service to watch; None off the clouds, found without a word to the network."""
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
