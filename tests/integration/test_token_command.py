"""`spectrain token`, against a real service that begins without any token."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.client import Client
from api.schemas.accounts import NewToken
from bench.system.service import local_service
from jobs.accounts.token import Role
from tests.integration.test_api_served import serving


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def url(data: Path) -> Iterator[str]:
    """The URL of a service without tokens and workers."""
    with local_service(data, workers=0) as running:
        yield running.url


def spectrain(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "api.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_first_administrator_comes_from_the_machine_and_others_by_the_api(
    url: str, data: Path, wait_until: Callable[..., Any]
) -> None:
    direct = ["--direct", "--data", str(data)]
    first = spectrain("token", "create", "root", "--owner", "ada", "--role", "admin", *direct)
    assert first.returncode == 0, first.stderr
    admin = first.stdout.strip()
    assert admin.startswith("spectrain_")
    # From now on the service asks for it.
    wait_until(lambda: httpx.get(f"{url}/v1/jobs").status_code == 401, what="the token", seconds=10)
    ada = ["--url", url, "--token", admin, "token"]
    made = spectrain(*ada, "create", "ci", "--owner", "bob", "--expires", "30d", "--running", "2")
    assert made.returncode == 0, made.stderr
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    me = httpx.get(f"{url}/v1/me", headers=headers).json()
    assert (me["name"], me["role"]) == ("bob", "user")
    listed = spectrain(*ada, "ls").stdout
    assert "in 30" in listed or "in 29" in listed, listed
    assert made.stdout.strip() not in listed
    assert spectrain(*ada, "revoke", me["token"]).returncode == 0
    assert httpx.get(f"{url}/v1/me", headers=headers).status_code == 401
    refused = spectrain("--url", url, "--token", admin, "token", "revoke", "t-none")
    assert refused.returncode == 1
    assert "no token 't-none'" in refused.stderr
    by_user = spectrain(*ada, "create", "x", "--owner", "not a name")
    assert by_user.returncode == 2
    assert "letters, digits" in by_user.stderr


def test_a_revocation_reaches_a_second_process_of_the_api(
    redis_url: str, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    secret = "secret-of-sixteen-or-more"
    storage = tmp_path / "experiments"
    storage.mkdir()
    with (
        serving(redis_url, storage, wait_until, token=secret) as first,
        serving(redis_url, storage, wait_until, token=secret) as second,
        Client(first, secret) as admin,
    ):
        made = admin.accounts.create(NewToken(name="x", owner="ada", role=Role.VIEWER))
        headers = {"Authorization": f"Bearer {made.token}"}

        def status() -> int:
            return httpx.get(f"{second}/v1/me", headers=headers).status_code

        wait_until(lambda: status() == 200, what="the token there", seconds=10)
        admin.accounts.revoke(made.id)
        wait_until(lambda: status() == 401, what="its end there", seconds=10)


def test_a_viewer_makes_no_tokens(url: str, data: Path, wait_until: Callable[..., Any]) -> None:
    made = spectrain("token", "create", "x", "--role", "viewer", "--data", str(data)).stdout.strip()
    wait_until(lambda: httpx.get(f"{url}/v1/jobs").status_code == 401, what="the token", seconds=10)
    refused = spectrain("--url", url, "--token", made, "token", "create", "mine")
    assert refused.returncode == 1
    assert "needs the role admin; yours is viewer" in refused.stderr


def test_the_audit_says_who_changed_what_and_is_for_administrators(
    url: str, data: Path, wait_until: Callable[..., Any]
) -> None:
    direct = ["--direct", "--data", str(data)]
    made = spectrain("token", "create", "root", "--owner", "ada", "--role", "admin", *direct)
    wait_until(lambda: httpx.get(f"{url}/v1/jobs").status_code == 401, what="the token", seconds=10)
    ada = ["--url", url, "--token", made.stdout.strip()]
    bob = spectrain(*ada, "token", "create", "ci", "--owner", "bob").stdout.strip()
    first, second = spectrain(*ada, "audit").stdout.splitlines()
    assert first.split()[2] == "token_created"
    assert first.endswith("from=this machine")
    assert "owner=bob" in second
    assert second.endswith("by=ada  from=127.0.0.1")
    assert bob not in second
    (newest,) = spectrain(*ada, "audit", "-n", "1", "--json").stdout.splitlines()
    assert json.loads(newest)["data"]["owner"] == "bob"
    refused = spectrain("--url", url, "--token", bob, "audit")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "admin" in refused.stderr
    command = [sys.executable, "-m", "api.cli", *ada, "audit", "--follow", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        try:
            assert follower.stdout is not None
            seen = [json.loads(follower.stdout.readline()) for _ in range(2)]
            with Client(url, made.stdout.strip()) as client:
                (token,) = (one for one in client.accounts.tokens() if one.owner == "bob")
                client.accounts.revoke(token.id)
            new = json.loads(follower.stdout.readline())
        finally:
            follower.kill()
    assert new["type"] == "token_revoked"
    assert new["id"] > seen[-1]["id"]
