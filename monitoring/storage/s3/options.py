"""Options of an object store: its address, and arguments that go with each request."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from monitoring.storage.base import StorageError

ENDPOINT = "SPECTRAIN_S3_ENDPOINT_URL"
ADDRESSING = "SPECTRAIN_S3_ADDRESSING"
EXTRA_ARGS = "SPECTRAIN_S3_EXTRA_ARGS"

_OWN = ("Bucket", "Key", "Body", "Metadata", "Content", "If", "Upload", "Part", "CopySource")
_WRITES = ("PutObject", "CreateMultipartUpload", "CopyObject")
_CUSTOMER_KEY = "SSECustomerKey"


@dataclass(frozen=True)
class S3Options:
    """How to talk to a store; `addressing` is path, virtual or auto."""

    endpoint_url: str = ""
    addressing: str = "auto"
    extra_args: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, endpoint_url: str = "", addressing: str = "", extra_args: str = "") -> S3Options:
        """Options from text, where empty from the environment; raises `StorageError`."""
        addressing = addressing or os.environ.get(ADDRESSING) or "auto"
        if addressing not in {"path", "virtual", "auto"}:
            raise StorageError(f"{ADDRESSING} is {addressing!r}; allowed: path, virtual or auto")
        return cls(
            endpoint_url or os.environ.get(ENDPOINT, ""),
            addressing,
            _parsed(extra_args or os.environ.get(EXTRA_ARGS, "")),
        )

    @property
    def needs_headers(self) -> bool:
        """Whether also a download needs headers, so that a URL is not enough for it."""
        return _CUSTOMER_KEY in self.extra_args

    def register(self, client: Any) -> None:
        """Adds the extra arguments to each request of a client that knows them.

        Raises `StorageError` for one that no request knows.
        """
        if not self.extra_args:
            return
        model = client.meta.service_model
        writes = ("PutObject", "CreateMultipartUpload", "CopyObject")
        known = {
            name for write in writes for name in model.operation_model(write).input_shape.members
        }
        for name in self.extra_args:
            if name not in known or name.startswith(_OWN):
                raise StorageError(
                    f"{EXTRA_ARGS} has {name!r}, which is no option of a write; such are "
                    "ServerSideEncryption, SSEKMSKeyId, SSECustomerKey and StorageClass"
                )
        client.meta.events.register("provide-client-params.s3", self._add)

    def _add(self, params: dict[str, Any], model: Any, **_: Any) -> dict[str, Any]:
        members = model.input_shape.members if model.input_shape else {}
        added = {name: value for name, value in self.extra_args.items() if name in members}
        for name, value in self.extra_args.items():
            source = f"CopySource{name}"
            if name.startswith("SSECustomer") and source in members:
                added[source] = value
        return {**added, **params}


def _parsed(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        # Not shown: it may hold a key.
        raise StorageError(f'{EXTRA_ARGS} is no JSON object such as {{"SSEKMSKeyId": "…"}}')
    if _CUSTOMER_KEY in found:
        found.setdefault("SSECustomerAlgorithm", "AES256")
    return found
