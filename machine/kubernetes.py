"""Calls the API of the Kubernetes cluster that this process runs in."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Where Kubernetes mounts the credentials for its API.
CREDENTIALS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_CALL_SECONDS = 5.0


class KubernetesApi:
    """The API at `base`; `credentials` is a directory with `token` and `ca.crt`."""

    def __init__(self, base: str, credentials: Path) -> None:
        self._base = base
        self._credentials = credentials

    @classmethod
    def of_this_pod(
        cls, environment: Mapping[str, str], credentials: Path = CREDENTIALS
    ) -> KubernetesApi | None:
        """The API of this pod's cluster; None outside of one, or without a token."""
        host, port = (environment.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
        if not (host and port and (credentials / "token").exists()):
            return None
        host = f"[{host}]" if ":" in host else host
        return cls(f"https://{host}:{port}", credentials)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer to a call; a PATCH is a merge patch.

        Raises `urllib.error.HTTPError` if the API refuses, OSError if it cannot be reached.
        """
        # Read for each call, since Kubernetes renews the token in this file.
        token = (self._credentials / "token").read_text().strip()
        context = ssl.create_default_context(cafile=str(self._credentials / "ca.crt"))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = urllib.request.Request(  # noqa: S310 - our own https address
            self._base + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": kind,
                "Accept": "application/json",
            },
        )
        with opener.open(request, timeout=_CALL_SECONDS) as answer:
            return dict(json.loads(answer.read() or b"{}"))
