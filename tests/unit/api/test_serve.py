"""Where the API may listen."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from api.hosts import is_loopback
from api.ports import join, listen
from api.server.serve import refusal
from jobs.settings import Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    assert refusal(Settings(api_host=host, api_tokens="")) is None


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "::", "10.0.0.1", "gpu-1", "localhost.example.com", ""]
)
def test_any_other_address_is_refused_without_a_token(host: str) -> None:
    assert "SPECTRAIN_API_TOKENS" in (refusal(Settings(api_host=host, api_tokens=" , ")) or "")
    assert refusal(Settings(api_host=host, api_tokens="secret-of-sixteen-or-more")) is None


def test_the_command_line_says_why_it_does_not_start() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SPECTRAIN_")}
    ended = subprocess.run(
        [sys.executable, "-m", "api.cli", "api", "--host", "::"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("Without tokens, anyone who reaches")
    assert "Traceback" not in ended.stderr


def test_an_ipv6_address_is_taken_with_and_without_brackets() -> None:
    for host in ("::1", "[::1]"):
        with listen(host, 0) as listener:
            assert listener.getsockname()[0] == "::1"
    assert join("::1", 8080) == "[::1]:8080"
    assert join("localhost", 8080) == "localhost:8080"
