"""What webhooks send, how it is signed, and where it may go."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.model.spec import JobSpec
from jobs.webhooks import address
from jobs.webhooks.address import ForbiddenAddressError, is_global, resolve
from jobs.webhooks.message import Noticed, key_of, signature

FAILED = Noticed(
    "a-23456789:1.0:failed:1", "https://hooks.example/x", "json", "failed", "a-23456789", 1.5,
    {"attempt": 2, "reason": "error", "message": "exit code 1: ValueError"},
)  # fmt: skip


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_an_address_of_the_internet_may_be_told(text: str) -> None:
    assert is_global(text)


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1",
        "64:ff9b:1::1", "2002:7f00:1::1", "2001:db8::1",
    ],
)  # fmt: skip
def test_any_other_address_may_not(text: str) -> None:
    assert not is_global(text)


def test_a_host_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, 1, 6, "", (ip, 443)) for ip in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(address.socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ForbiddenAddressError, match="SPECTRAIN_WEBHOOK_PRIVATE"):
        resolve("hooks.example", 443, anywhere=False)
    assert resolve("hooks.example", 443, anywhere=True) == ["8.8.8.8", "10.0.0.1"]


def test_the_signature_is_that_of_standard_webhooks() -> None:
    key = b"k" * 24
    secret = f"whsec_{base64.b64encode(key).decode()}"
    assert key_of(secret) == key
    assert key_of("any text") == b"any text"
    assert key_of("whsec_!") == b"whsec_!"
    body, kind = FAILED.body()
    headers = FAILED.headers(body, kind, secret, 1700000000.9)
    signed = b"%s.1700000000.%s" % (FAILED.id.encode(), body)
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == (FAILED.id, "1700000000")
    assert "webhook-signature" not in FAILED.headers(body, kind, "", 1.0)
    assert signature(secret, "b", "1", b"") != signature(secret, "a", "1", b"")


def test_each_format_says_what_happened() -> None:
    body, _ = FAILED.body()
    assert json.loads(body) == {
        "type": "job.failed",
        "timestamp": "1970-01-01T00:00:01.500000Z",
        "data": {
            "job": "a-23456789", "name": "a", "attempt": 2, "reason": "error",
            "message": "exit code 1: ValueError",
        },
    }  # fmt: skip
    sentence = "a-23456789 failed: exit code 1: ValueError"
    slack = Noticed(**{**vars(FAILED), "format": "slack"})
    assert json.loads(slack.body()[0]) == {"text": sentence}
    text = Noticed(**{**vars(FAILED), "format": "text"})
    assert text.body() == (sentence.encode(), "text/plain; charset=utf-8")
    assert text.headers(b"", "", "", 1.0)["Title"] == "a-23456789 failed"


@pytest.mark.parametrize(
    "hook",
    [
        {"url": "ftp://x/y", "on": ["failed"]},
        {"url": "https://", "on": ["failed"]},
        {"url": "https://ann:secret@host/x", "on": ["failed"]},
        {"url": "https://host:0/x", "on": ["failed"]},
        {"url": "https://host:port/x", "on": ["failed"]},
        {"url": "https://host/a b", "on": ["failed"]},
        {"url": "https://host/x\r\nHost: y", "on": ["failed"]},
        {"url": "http://[", "on": ["failed"]},
        {"url": "https://host/x", "on": []},
        {"url": "https://host/x", "on": ["succeeded"]},
        {"url": "https://host/x", "on": ["failed"], "format": "teams"},
    ],
)
def test_a_webhook_that_cannot_work_is_refused(hook: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate({"name": "a", "command": ["true"], "notify": [hook]})
