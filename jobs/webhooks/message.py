"""What a webhook sends: the body in each format, its headers and its signature; without I/O.

The headers and the signature are those of Standard Webhooks (standardwebhooks.com), so that a
library of that name verifies them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

_PREFIX = "whsec_"
_WORDS = {
    "submitted": "was submitted",
    "started": "started",
    "finished": "finished",
    "failed": "failed",
    "cancelled": "was cancelled",
    "paused": "is paused",
    "preempted": "was preempted and is queued again",
    "lost": "lost its worker and is queued again",
    "retried": "failed and is tried again",
}
_LONGEST = 1000  # characters of a sentence


@dataclass(frozen=True)
class Noticed:
    """A notice to send; `id` is the same for each try, `at` in seconds since the epoch."""

    id: str
    url: str
    format: str
    event: str
    job: str
    at: float
    data: Mapping[str, Any]

    @classmethod
    def read(cls, id: str, content: str) -> Noticed:  # noqa: A002
        """The notice that the script stored; raises ValueError."""
        try:
            found = json.loads(content)
            return cls(
                id, found["url"], found["format"], found["event"], found["job"],
                float(found["at"]), json.loads(found["data"]),
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a notice: {error!r}") from None

    def sentence(self) -> str:
        """What happened, for a person."""
        text = f"{self.job} {_WORDS.get(self.event, self.event)}"
        why = self.data.get("message") or ""
        if self.event == "started" and "attempt" in self.data:
            why = f"attempt {self.data['attempt']} on {self.data.get('worker')}"
        return (f"{text}: {why}" if why else text)[:_LONGEST]

    def body(self) -> tuple[bytes, str]:
        """The body and its media type."""
        if self.format == "text":
            return self.sentence().encode(), "text/plain; charset=utf-8"
        if self.format == "slack":
            return json.dumps({"text": self.sentence()}).encode(), "application/json"
        whole = {
            "type": f"job.{self.event}",
            "timestamp": datetime.fromtimestamp(self.at, UTC).isoformat().replace("+00:00", "Z"),
            "data": {"job": self.job, "name": self.job.rpartition("-")[0], **self.data},
        }
        return json.dumps(whole).encode(), "application/json"

    def headers(self, body: bytes, kind: str, secret: str, now: float) -> dict[str, str]:
        """The headers of one try; signed unless `secret` is empty."""
        sent_at = str(int(now))
        headers = {
            "Content-Type": kind,
            "User-Agent": "Spectrain",
            "webhook-id": self.id,
            "webhook-timestamp": sent_at,
        }
        if self.format == "text":
            headers["Title"] = f"{self.job} {self.event}"
        if secret:
            headers["webhook-signature"] = signature(secret, self.id, sent_at, body)
        return headers


def signature(secret: str, notice: str, sent_at: str, body: bytes) -> str:
    """The HMAC-SHA256 of id, time and body; a secret `whsec_…` is the base64 of the key."""
    signed = b".".join((notice.encode(), sent_at.encode(), body))
    made = hmac.new(key_of(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(made).decode()}"


def key_of(secret: str) -> bytes:
    """The key that a secret stands for."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        return secret.encode()
