"""An S3 server for the tests that keep runs in an object store."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import httpx
import pytest
from botocore.loaders import create_loader

from api.redis_server import free_port

# Lists come in pages of ten, so that every test with more files goes through several.
_SERVER = {"MOTO_S3_DEFAULT_MAX_KEYS": "10"}
_BUCKET = "runs"


@pytest.fixture(scope="session")
def s3_server(wait_until: Callable[..., Any]) -> Iterator[str]:
    """The address of a moto server that lives as long as the tests."""
    port = free_port()
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("moto_server")), "--port", str(port)],
        env={**os.environ, **_SERVER},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers, what="the S3 server")
        address = f"http://127.0.0.1:{port}"
        httpx.put(f"{address}/{_BUCKET}").raise_for_status()
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def read_once() -> Iterator[None]:
    """botocore parses its description of S3 once, not in each of a hundred clients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", cache(create_loader))
        yield


@pytest.fixture
def s3_url(s3_server: str, read_once: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty prefix; the environment holds what is needed to open it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("SPECTRAIN_S3_ENDPOINT_URL", s3_server)
    return f"s3://{_BUCKET}/{secrets.token_hex(4)}"
