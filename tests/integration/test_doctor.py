"""`spectrain doctor` finds the service that is there: by settings, beside `up`, or over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.local.redis_server import free_port
from bench.system.service import local_service


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def url(here: Path) -> Iterator[str]:
    """The URL of a service with one worker and its data where `spectrain up` has them."""
    with local_service(here / "spectrain-data", workers=1) as running:
        yield running.url


def doctor(
    at: Path, *words: str, **env: str
) -> tuple[int, list[str], str]:  # fmt: skip
    """The exit code of the command in a directory, its lines, and what is on standard error."""
    bare = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SPECTRAIN_", "REDIS_"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", *words, "doctor"],
        cwd=at, env={**bare, "XDG_CONFIG_HOME": str(at), **env},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_the_doctor_checks_the_service_that_is_there(url: str, here: Path, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    # Beside `spectrain up`, whose Redis has a port and a password of its own.
    code, lines, said = doctor(here, SPECTRAIN_URL=nowhere)
    assert (code, lines[-1]) == (0, "No problems found.")
    assert {"ok   redis", "ok   records"} <= set(lines)
    assert any(line.startswith("ok   worker ") for line in lines)
    assert said == f"The service of `spectrain up` in {here / 'spectrain-data'}:\n"

    # In another directory the service that answers says how it is.
    code, lines, said = doctor(tmp_path, SPECTRAIN_URL=url)
    assert (code, lines[-1]) == (0, "No problems found.")
    assert "ok   redis" in lines
    assert any(line.startswith("ok   worker ") for line in lines)
    assert said == f"The service at {url}, as it sees itself:\n"

    # The settings of the environment name a service, however many others there are.
    redis = f"redis://127.0.0.1:{free_port()}/0"
    storage = f"file://{tmp_path}/storage"
    code, lines, said = doctor(
        here, SPECTRAIN_REDIS_URL=redis, SPECTRAIN_STORAGE_URL=storage, SPECTRAIN_URL=url
    )
    assert (code, lines[-1], said) == (1, "1 to fix.", "")
    assert lines[0].startswith("bad  redis: Redis cannot be reached at")

    # Where nothing runs it says what would.
    code, lines, said = doctor(tmp_path, SPECTRAIN_URL=nowhere, SPECTRAIN_LEASE_SECONDS="15")
    assert (code, said) == (1, "")
    assert lines[-2:] == [
        "`spectrain up` starts a whole service here, with a Redis of its own.", "1 to fix.",
    ]  # fmt: skip


def test_a_service_elsewhere_that_is_named_and_away_is_not_taken_for_one_here(
    tmp_path: Path,
) -> None:
    code, lines, said = doctor(tmp_path, "--url", "http://host.invalid", NO_PROXY="*")
    assert (code, lines) == (1, [])
    assert said.startswith("Error: No service answers at http://host.invalid")
