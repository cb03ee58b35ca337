"""What several files share: an S3 server, a fork server, and fixtures of the HTTP calls."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import httpx
import pytest
from botocore.loaders import create_loader
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from api.local.redis_server import RedisConfig, find_redis_server, free_port
from api.server.app import create_app
from bench.system.store import BUCKET, KEYS, s3_store
from jobs.messages import Messenger
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from tests.integration.http_calls import MakeApp, submitted
from tests.integration.one_worker import USUAL, Bench, DiskOf, OwnRedis
from tests.integration.warm_python import WarmPython
from tests.integration.worker_processes import Workers
from worker.launch.child import Child, Start
from worker.launch.fork_client import ForkServerClient


@pytest.fixture
def disk_of(tmp_path: Path) -> Iterator[DiskOf]:
    """Mounts one disk, which only root can; it is unmounted even if something still uses it."""
    path = tmp_path / "disk"

    def mount(size: str) -> Path:
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("mounting a disk needs root")
        return path

    yield mount
    if path.is_mount():
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(scope="session")
def moto_server(wait_until: Callable[..., Any]) -> Iterator[str]:
    """The address of a moto server that lives as long as the tests."""
    port = free_port()
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("moto_server")), "--port", str(port)],
        # Lists come in pages of ten, so that every test with more files goes through several.
        env={**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": "10"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers, what="moto")
        address = f"http://127.0.0.1:{port}"
        httpx.put(f"{address}/{BUCKET}").raise_for_status()
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def seaweedfs_server() -> Iterator[str]:
    """The address of a SeaweedFS, which shares no code with moto; lives as long as the tests."""
    with s3_store() as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def s3_server(moto_server: str) -> str:
    """The address of an S3 server; the tests of storage itself go through several."""
    return moto_server


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
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SPECTRAIN_S3_ENDPOINT_URL", s3_server)
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    code: int | None
    output: str


class Runner:
    """Runs commands in a working directory, with the environment that a worker gives."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd

    def begin(
        self, start: Start, command: list[str], *, name: str = "output", **env: str
    ) -> tuple[Child, threading.Event]:
        """The started command, and what is set when it has ended."""
        ended = threading.Event()
        output = self.cwd.parent / name
        output.unlink(missing_ok=True)
        environment = {**USUAL, **env}
        return Child(command, env=environment, cwd=self.cwd, output=output, on_exit=ended.set,
                     start=start), ended  # fmt: skip

    def run(self, start: Start, command: list[str], **env: str) -> Run:
        """Runs a command to its end."""
        child, ended = self.begin(start, command, **env)
        assert ended.wait(60), "it does not end"
        return Run(child.exit_code, (self.cwd.parent / "output").read_text())

    def is_warm(self, start: Start, **env: str) -> bool:
        """Whether a script runs in a process that was forked."""
        (self.cwd / "which.py").write_text("import sys\nprint('torch' in sys.modules)")
        run = self.run(start, ["python", "which.py"], **env)
        assert run.code == 0, run.output
        return run.output == "True\n"


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """Runs commands in an empty directory."""
    cwd = tmp_path / "workspace"
    cwd.mkdir()
    return Runner(cwd)


@pytest.fixture(scope="session")
def usual() -> dict[str, str]:
    """The environment that a worker's fork server and its jobs have in common."""
    return USUAL


class _SharedForkServer:
    """A fork server for many tests, renewed after jobs of another environment replaced it."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._client = ForkServerClient(USUAL)
        assert self._client.wait_until_ready(60)
        self._first = self._client.server_pid

    def client(self) -> ForkServerClient:
        self._client.wait_until_ready(60)
        if self._client.server_pid != self._first:
            self._client.close()
            self._begin()
        return self._client

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="session")
def _shared_fork_server() -> Iterator[_SharedForkServer]:
    shared = _SharedForkServer()
    yield shared
    shared.close()


@pytest.fixture
def warm(_shared_fork_server: _SharedForkServer) -> ForkServerClient:
    """A fork server that is ready, with the environment of a worker's jobs."""
    return _shared_fork_server.client()


@pytest.fixture(params=["cold", "warm"])
def both(request: pytest.FixtureRequest, settings: Settings, store: JobStore) -> Iterator[Bench]:
    """A worker that starts each program anew, and one that forks it."""
    start = [request.getfixturevalue("warm").start] if request.param == "warm" else []
    bench = Bench(settings, store, *start)
    yield bench
    bench.service.messenger.close()


@pytest.fixture(scope="session")
def warm_python() -> Iterator[WarmPython]:
    """Runs the project's programs without the time of their imports."""
    warm_python = WarmPython()
    yield warm_python
    warm_python.close()


@pytest.fixture
def bench(settings: Settings, store: JobStore) -> Iterator[Bench]:
    """A worker whose jobs have four seconds to leave."""
    bench = Bench(settings.model_copy(update={"grace_seconds": 4}), store)
    yield bench
    bench.service.messenger.close()


@pytest.fixture
def workers(settings: Settings, warm_python: WarmPython) -> Iterator[Workers]:
    workers = Workers(settings, warm_python)
    yield workers
    workers.stop()


@pytest.fixture
def registry(store: JobStore) -> WorkerRegistry:
    return WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=store.lease_seconds)


@pytest.fixture
def messenger(settings: Settings, store: JobStore) -> Iterator[Messenger]:
    messenger = Messenger(settings, store)
    yield messenger
    messenger.close()


@pytest.fixture
def own_redis(tmp_path: Path, wait_until: Callable[..., Any]) -> Iterator[OwnRedis]:
    """A Redis that a test may take away: its configuration, and what starts it again."""
    config = RedisConfig(tmp_path / "own-redis")
    running: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [find_redis_server(), str(config.path)]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        wait_until(config.answers, what="Redis")
        return running[-1]

    yield config, start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def make_app() -> Iterator[MakeApp]:
    """Makes applications whose connections are closed after the test."""
    made: list[Flask] = []

    def make(settings: Settings) -> Flask:
        made.append(create_app(settings))
        return made[-1]

    yield make
    for app in made:
        app.extensions["spectrain"].close()


@pytest.fixture
def http(settings: Settings, make_app: MakeApp) -> FlaskClient:
    return make_app(settings).test_client()


@pytest.fixture(params=["file", "s3"])
def service(
    request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings with the runs in a directory or in a bucket; the environment names both places."""
    if request.param == "s3":
        url = request.getfixturevalue("s3_url")
        settings = settings.model_copy(update={"storage_url": url})
    else:
        Path(settings.storage_url.removeprefix("file://")).mkdir()
    monkeypatch.setenv("SPECTRAIN_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("SPECTRAIN_STORAGE_URL", settings.storage_url)
    return settings


@pytest.fixture
def api_url(settings: Settings, make_app: MakeApp) -> Iterator[str]:
    """The address at which the application is served by this process."""
    server = make_server("127.0.0.1", 0, make_app(settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def job_id(http: FlaskClient) -> str:
    return str(submitted(http)["id"])


@pytest.fixture
def run(settings: Settings, job_id: str) -> Path:
    """The job's run directory, as its worker left it."""
    root = Path(settings.storage_url.removeprefix("file://")) / job_id
    (root / "logs").mkdir(parents=True)
    (root / "logs/output.log").write_bytes("one\ntwo ∿\nthree\n".encode())
    rows = [{"step": step, "loss": 1 / 3 + step} for step in range(0, 50, 10)]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 50, "lo'
    (root / "logs/metrics.jsonl").write_text(text)
    (root / "results.json").write_text('{"loss": 1.0}')
    return root
