"""Says on this worker's pod what its end would cost, so that idle ones are scaled away first.

Kubernetes removes the pods of a Deployment by the annotation below, cheapest first. There is one
call to its API when the queue gives this worker something to do, and one when it is empty again.
"""

from __future__ import annotations

import http.client
import json
import logging
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
IDLE, BUSY = 0, 100

# Where Kubernetes mounts what a pod calls its API with.
CREDENTIALS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_CALL_SECONDS = 5.0
_RETRY_SECONDS, _MOST_RETRY_SECONDS = 1.0, 60.0
_LEAVE_SECONDS = 2.0


class DeletionCost(Protocol):
    """What a worker tells of itself; no method waits for an answer or raises."""

    def start(self) -> None:
        """Says that this worker is idle, and begins to tell."""

    def tell(self, cost: int) -> None:
        """Has the cost written, now or as soon as that can be done."""

    def stop(self) -> None:
        """Ends telling."""


class NoDeletionCost:
    """Where there is no pod, or none that may be changed."""

    def start(self) -> None:
        """Does nothing."""

    def tell(self, cost: int) -> None:
        """Does nothing."""

    def stop(self) -> None:
        """Does nothing."""


class PodDeletionCost:
    """Keeps the annotation of one pod, in a thread of its own, through outages of the API.

    `pod` is the pod's address in the API; `credentials` a directory with `token` and `ca.crt`.
    """

    def __init__(
        self, pod: str, credentials: Path, *, retry_seconds: float = _RETRY_SECONDS
    ) -> None:
        self._pod = pod
        self._credentials = credentials
        self._retry_seconds = retry_seconds
        # A container that was started again may have left another cost behind.
        self._wanted = IDLE
        self._changed = threading.Event()
        self._ended = False
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="deletion cost", daemon=True)

    def start(self) -> None:
        """Says that this worker is idle, and begins to tell."""
        self._thread.start()

    def tell(self, cost: int) -> None:
        """Has the cost written, now or as soon as that can be done; the last one counts."""
        self._wanted = cost
        self._changed.set()

    def stop(self) -> None:
        """Ends telling; a call under way may end by itself."""
        self._ended = True
        self._changed.set()
        if self._thread.ident is not None:
            self._thread.join(_LEAVE_SECONDS)

    def _run(self) -> None:
        written: int | None = None
        while not self._ended:
            self._changed.clear()
            wanted = self._wanted
            if wanted != written:
                written = wanted if self._write(wanted) else None
            if written is None:
                self._pause()
            else:
                self._changed.wait()

    def _pause(self) -> None:
        seconds = min(self._retry_seconds * 2 ** min(self._failures - 1, 10), _MOST_RETRY_SECONDS)
        self._changed.wait(seconds)

    def _write(self, cost: int) -> bool:
        """Whether the pod has the cost now; the first failure in a row is told."""
        try:
            self._patch(cost)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("cannot say on this pod what its end costs: %s", _reason(error))
            return False
        if self._failures:
            log.info("this pod says again what its end costs")
        self._failures = 0
        return True

    def _patch(self, cost: int) -> None:
        # The token is a file that Kubernetes renews: it is read for each call.
        token = (self._credentials / "token").read_text().strip()
        context = ssl.create_default_context(cafile=str(self._credentials / "ca.crt"))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        request = urllib.request.Request(  # noqa: S310 - our own https address
            self._pod,
            method="PATCH",
            data=json.dumps({"metadata": {"annotations": {ANNOTATION: str(cost)}}}).encode(),
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/merge-patch+json",
                "Accept": "application/json",
            },
        )
        with opener.open(request, timeout=_CALL_SECONDS) as answer:
            answer.read()


def pod_deletion_cost(
    environment: Mapping[str, str], credentials: Path | None = None
) -> DeletionCost:
    """That of the pod which POD_NAMESPACE and POD_NAME name, where its token is mounted."""
    credentials = credentials or CREDENTIALS
    namespace, name = environment.get("POD_NAMESPACE"), environment.get("POD_NAME")
    host, port = (environment.get(f"KUBERNETES_SERVICE_{word}") for word in ("HOST", "PORT"))
    if not (namespace and name and host and port and (credentials / "token").exists()):
        return NoDeletionCost()
    host = f"[{host}]" if ":" in host else host
    return PodDeletionCost(
        f"https://{host}:{port}/api/v1/namespaces/{namespace}/pods/{name}", credentials
    )


def _reason(error: Exception) -> str:
    if not isinstance(error, urllib.error.HTTPError):
        return str(error)
    advice = {
        401: "its token is refused",
        403: "its service account may not patch it; see workers.deletionCost of the chart",
        404: "there is no such pod",
    }
    return f"{error}: {advice[error.code]}" if error.code in advice else str(error)
