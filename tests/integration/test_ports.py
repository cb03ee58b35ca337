"""A port that another process holds: found at once, named, and never mistaken for the service."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.client.client import ApiError, Client
from api.local import redis_server, service
from api.local.redis_server import free_port
from api.local.service import CannotStartError, LocalService
from api.ports import CannotListenError, holder, listen
from tests.integration.warm_python import WarmPython
from tests.processes import command_line

Wait = Callable[..., Any]


class Ready(BaseHTTPRequestHandler):
    """Another service, which answers `/readyz` as Spectrain does."""

    def do_GET(self) -> None:
        body = b'{"status": "ok", "checks": {}}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


@pytest.fixture
def another() -> Iterator[int]:
    """The port of another service on 127.0.0.1."""
    server = HTTPServer(("127.0.0.1", 0), Ready)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def local(tmp_path: Path, **options: Any) -> LocalService:
    return LocalService(
        tmp_path / "data", workers=0, device="cpu", isolated=True, say=lambda _: None, **options
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::"])
@pytest.mark.parametrize("command", ["up", "api"])
def test_a_port_in_use_ends_the_command_at_once_with_the_name_of_its_holder(
    another: int, tmp_path: Path, command: str, host: str, warm_python: WarmPython
) -> None:
    data = ["--data", str(tmp_path / "data"), "--workers", "0"] if command == "up" else []
    ended = warm_python.run(
        "api.cli", command, "--host", host, "--port", str(another), *data,
        env={**os.environ, "SPECTRAIN_API_TOKENS": "secret-of-sixteen-or-more"},
    )  # fmt: skip
    me = psutil.Process().name()
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert f"port {another} is in use (by {me}, process {os.getpid()}); try --port " in line
    assert not (tmp_path / "data" / "redis").exists(), "nothing was started"


def test_the_port_that_is_suggested_is_free(another: int, tmp_path: Path) -> None:
    with pytest.raises(CannotStartError) as caught:
        local(tmp_path, port=another).start()
    listen("127.0.0.1", int(str(caught.value).rpartition(" ")[2])).close()


@pytest.mark.parametrize("tokens", ["", "secret-of-sixteen-or-more"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_service_knows_its_own_api_with_and_without_tokens(
    tmp_path: Path, tokens: str, host: str
) -> None:
    up = local(tmp_path, host=host, settings={"SPECTRAIN_API_TOKENS": tokens})
    up.start()
    try:
        with Client(up.url, tokens or None, patience=0) as client:
            assert list(client.list()) == []
    finally:
        up.stop()


def test_a_service_that_answers_in_place_of_the_own_one_is_told_at_once(
    another: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a rule of a firewall does: what is sent to the port goes elsewhere, though it was free.
    monkeypatch.setattr(LocalService, "url", property(lambda _: f"http://127.0.0.1:{another}"))
    up = local(tmp_path)
    with pytest.raises(CannotStartError, match=f"another service answers at .*:{another}"):
        up.start()


def test_the_port_stays_held_while_the_api_is_away(tmp_path: Path, wait_until: Wait) -> None:
    up = local(tmp_path)
    up.start()
    try:
        (api,) = [p for p in psutil.Process().children() if "api.server.serve" in command_line(p)]
        api.kill()
        api.wait(10)
        with pytest.raises(CannotListenError, match=f"port {up.port} is in use"):
            listen("127.0.0.1", up.port)
        # Whoever calls meanwhile waits for the next API.
        with Client(up.url, patience=0) as client:
            answers: list[object] = []
            thread = threading.Thread(target=lambda: answers.append(list(client.list())))
            thread.start()
            wait_until(lambda: (up.tend(), answers)[1], what="an answer")
            thread.join()
        assert answers == [[]]
    finally:
        up.stop()


def test_redis_takes_another_port_when_its_own_was_taken_since_it_was_free(
    another: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = iter([another, free_port()])
    monkeypatch.setattr(redis_server, "free_port", lambda *_: next(ports))
    up = local(tmp_path)
    up.start()
    try:
        assert len(up.redis) == 1
        assert Client(up.url, patience=0).list(limit=1)
    finally:
        up.stop()


def test_a_service_whose_redis_has_lost_its_port_ends_with_a_sentence(
    tmp_path: Path, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_CALM_SECONDS", 0.0)
    up = local(tmp_path)
    up.start()
    try:
        (redis,) = map(psutil.Process, up.redis)
        port = next(c.laddr.port for c in redis.net_connections() if c.status == "LISTEN")
        redis.send_signal(signal.SIGKILL)
        wait_until(lambda: not up.redis, what="the end of Redis")
        with listen("127.0.0.1", port):
            assert str(os.getpid()) in (holder(port) or "")
            with pytest.raises(CannotStartError, match=f"redis has ended, and its port {port} is"):
                up.tend()
    finally:
        up.stop()


def test_a_job_never_goes_to_the_other_service(another: int, tmp_path: Path) -> None:
    up = local(tmp_path, port=another)
    with pytest.raises(CannotStartError):
        up.start()
    with Client(f"http://127.0.0.1:{another}", patience=0) as client, pytest.raises(ApiError):
        client.submit({"name": "a", "command": ["true"]})


@pytest.mark.parametrize(
    ("host", "says"),
    [("192.0.2.1", "cannot listen on 192.0.2.1:"), ("no.such.host.invalid", "not an address")],
)
def test_an_address_that_is_not_this_machines_is_one_sentence(
    tmp_path: Path, host: str, says: str
) -> None:
    with pytest.raises(CannotStartError, match=says):
        local(tmp_path, host=host).start()
