"""Sets the deletion cost of this worker's pod, so that Kubernetes removes idle workers first.

When it scales a Deployment down, Kubernetes removes the pods with the lowest cost first, by the
annotation below. The worker calls its API once when it starts to work and once when it is idle.
"""

from __future__ import annotations

import http.client
import logging
import threading
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from machine.kubernetes import CREDENTIALS, KubernetesApi

log = logging.getLogger(__name__)

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
IDLE, BUSY = 0, 100

_RETRY_SECONDS, _MOST_RETRY_SECONDS = 1.0, 60.0
_LEAVE_SECONDS = 2.0


class DeletionCost(Protocol):
    """The deletion cost of a worker's pod; no method waits for an answer or raises."""

    def start(self) -> None:
        """Sets the cost of an idle worker and starts the updates."""

    def set(self, cost: int) -> None:
        """Writes the cost as soon as possible."""

    def stop(self) -> None:
        """Ends the updates."""


class NoDeletionCost:
    """Without a pod, or without the right to change it: does nothing."""

    def start(self) -> None:
        """Does nothing."""

    def set(self, cost: int) -> None:
        """Does nothing."""

    def stop(self) -> None:
        """Does nothing."""


class PodDeletionCost:
    """Writes the annotation of one pod in a thread of its own, and retries during outages.

    `pod` is the pod's path in the API.
    """

    def __init__(
        self, api: KubernetesApi, pod: str, *, retry_seconds: float = _RETRY_SECONDS
    ) -> None:
        self._api = api
        self._pod = pod
        self._retry_seconds = retry_seconds
        # Written at the start: the container may have restarted and left another cost behind.
        self._wanted = IDLE
        self._changed = threading.Event()
        self._ended = False
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="deletion-cost", daemon=True)

    def start(self) -> None:
        """Sets the cost of an idle worker and starts the updates."""
        self._thread.start()

    def set(self, cost: int) -> None:
        """Writes the cost as soon as possible; a later call replaces an earlier one."""
        self._wanted = cost
        self._changed.set()

    def stop(self) -> None:
        """Ends the updates; a call in progress may outlast this."""
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
        """Whether the cost was written; logs the first of several failures."""
        try:
            self._patch(cost)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("cannot set the deletion cost of this pod: %s", _reason(error))
            return False
        if self._failures:
            log.info("the deletion cost of this pod is set again")
        self._failures = 0
        return True

    def _patch(self, cost: int) -> None:
        self._api.call("PATCH", self._pod, {"metadata": {"annotations": {ANNOTATION: str(cost)}}})


def pod_deletion_cost(
    environment: Mapping[str, str], credentials: Path | None = None
) -> DeletionCost:
    """The deletion cost of the pod named by POD_NAMESPACE and POD_NAME, if its token is mounted."""
    api = KubernetesApi.of_this_pod(environment, credentials or CREDENTIALS)
    namespace, name = environment.get("POD_NAMESPACE"), environment.get("POD_NAME")
    if api is None or not (namespace and name):
        return NoDeletionCost()
    return PodDeletionCost(api, f"/api/v1/namespaces/{namespace}/pods/{name}")


def _reason(error: Exception) -> str:
    if not isinstance(error, urllib.error.HTTPError):
        return str(error)
    advice = {
        401: "the API refuses its token",
        403: "its service account may not patch the pod; see workers.deletionCost in the chart",
        404: "the pod does not exist",
    }
    return f"{error}: {advice[error.code]}" if error.code in advice else str(error)
