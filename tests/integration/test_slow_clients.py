"""Clients that are slow, half-hearted or hostile hold up nobody else."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from monitoring.storage.open import open_storage
from tests.integration.one_worker import OwnRedis
from tests.integration.test_api_served import GOOD, serving

Wait = Callable[..., Any]
# Far more than an answer takes on a busy machine, and far less than a client's patience.
SOON = 10.0
HALF = (
    b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n{",
    b"PUT /v1/workspaces/" + b"0" * 64 + b" HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/gzip\r\nContent-Length: 1000000\r\n\r\nx",
    b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
)


@pytest.fixture(scope="module")
def served(
    redis_server: str, tmp_path_factory: pytest.TempPathFactory, wait_until: Wait
) -> Iterator[tuple[str, Path]]:
    storage = tmp_path_factory.mktemp("experiments")
    with serving(redis_server, storage, wait_until) as url:
        yield url, storage


@contextmanager
def connected(url: str, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """Clients that have sent something, and then wait."""
    parts = urlsplit(url)
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = socket.create_connection((str(parts.hostname), parts.port), timeout=SOON)
            clients.append(stack.enter_context(closing(client)))
            client.sendall(sent)
        yield clients


def answers(url: str, path: str = "/v1/jobs") -> int:
    return httpx.get(f"{url}{path}", timeout=SOON).status_code


@pytest.mark.parametrize("sent", [b"", *HALF])
def test_half_a_request_holds_up_nobody(
    served: tuple[str, Path], redis_url: str, sent: bytes
) -> None:
    url, _ = served
    with connected(url, 300, sent):
        assert [answers(url, path) for path in ("/healthz", "/v1/jobs", "/v1/jobs")] == [200] * 3


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"get /v1/jobs HTTP/1.1\r\n\r\n", b"400"),
        (b"\xff\xfe\x00 / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /v1/jobs HTTP/1.1\r\nA\x00B: c\r\n\r\n", b"400"),
        (b"GET /v1/jobs HTTP/1.1\r\n X: folded\r\n\r\n", b"400"),
        (b"GET /v1/jobs HTTP/1.1\r\nX: " + b"x" * 65536, b"431"),
        (b"POST /v1/jobs HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
    ],
)
def test_what_is_no_request_is_told_so(
    served: tuple[str, Path], sent: bytes, status: bytes
) -> None:
    with connected(served[0], 1, sent) as (client,):
        assert client.recv(100).split()[1] == status


def test_a_thousand_idle_clients_hold_up_nobody(served: tuple[str, Path], redis_url: str) -> None:
    url, _ = served
    with connected(url, 1100, b""):
        assert answers(url) == 200


LARGE = 24 << 20
KINDS = {
    "artifacts/large.bin?redirect=false": "",
    "artifacts/large.bin?redirect=false&": "Range: bytes=1-\r\n",
    "artifacts.zip": "",
    f"logs?limit={4 << 20}": "",
}


@pytest.fixture(params=["directory", "store"])
def run(
    request: pytest.FixtureRequest, redis_url: str, tmp_path: Path, s3_url: str, wait_until: Wait
) -> Iterator[str]:
    """The URL of a job whose run has a large file and a large log."""
    place = s3_url if request.param == "store" else tmp_path.as_uri()
    with serving(redis_url, place, wait_until) as url:
        job = httpx.post(f"{url}/v1/jobs", json=GOOD).json()["id"]
        storage = open_storage(place)
        storage.append(f"{job}/large.bin", 0, b"first" + bytes(LARGE - 5))
        storage.append(f"{job}/logs/output.log", 0, b"[1] a line of the log\n" * 200_000)
        yield f"{url}/v1/jobs/{job}"


def test_slow_downloads_hold_up_nobody(run: str) -> None:
    url, _, job = run.partition("/v1/")
    with ExitStack() as stack:
        slow = {}
        for path, headers in KINDS.items():
            head = f"GET /v1/{job}/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            request = f"{head}{headers}\r\n".encode()
            slow[path] = stack.enter_context(connected(url, 40, request))
        for client in chain(*slow.values()):
            assert client.recv(100).startswith(b"HTTP/1.1 20")
        assert [answers(url, path) for path in ("/healthz", "/v1/jobs")] == [200] * 2
        for path in KINDS:
            assert answers(url, f"/v1/{job}/{path}") == 200
        file, four = f"{run}/artifacts/large.bin?redirect=false", {"Range": "bytes=1-4"}
        part = httpx.get(file, headers=four, timeout=SOON)
        assert (part.status_code, part.content) == (206, b"irst")
        # The slow ones have the rest when they go on.
        for path, clients in slow.items():
            assert received(clients[0]) > (4_190_000 if "logs" in path else LARGE - 1)


def received(client: socket.socket) -> int:
    """The bytes of the rest of an answer."""
    size = 0
    while data := client.recv(1 << 20):
        size += len(data)
    return size


@pytest.mark.parametrize("run", ["directory"], indirect=True)
def test_answers_that_nobody_reads_hold_no_thread(run: str) -> None:
    url, _, job = run.partition("/v1/")
    request = f"GET /v1/{job}/logs?limit={4 << 20} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with connected(url, 30, request * 20):
        assert [answers(url, path) for path in ("/healthz", f"/v1/{job}/events")] == [200] * 2


def test_liveness_waits_for_no_redis(own_redis: OwnRedis, tmp_path: Path, wait_until: Wait) -> None:
    config, start = own_redis
    redis = start()
    with serving(config.url, tmp_path, wait_until) as url:
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            ended = threading.Event()
            waits: list[float] = []
            arguments = (url, ended, waits)
            callers = [threading.Thread(target=call_again, args=arguments) for _ in range(40)]
            for caller in callers:
                caller.start()
            wait_until(lambda: waits, what="a call that has waited for Redis")
            begun = time.monotonic()
            assert answers(url, "/healthz") == 200
            took = time.monotonic() - begun
            ended.set()
            for caller in callers:
                caller.join()
            assert took < min(waits)
        finally:
            os.kill(redis.pid, signal.SIGCONT)


def call_again(url: str, ended: threading.Event, waits: list[float]) -> None:
    """Calls what waits for Redis until `ended`; adds the seconds of each call to `waits`."""
    while not ended.is_set():
        begun = time.monotonic()
        try:
            httpx.get(f"{url}/v1/jobs", timeout=SOON)
        except httpx.HTTPError:
            return
        waits.append(time.monotonic() - begun)


def body(url: str, size: int, headers: dict[str, str], *, chunked: bool) -> tuple[int, int]:
    """The status of a request with a large body, and how many bytes of that were taken."""
    taken = 0
    with closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)) as wire:
        wire.putrequest("POST", "/v1/jobs")
        for name, value in headers.items():
            wire.putheader(name, value)
        wire.putheader(
            *("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(size))
        )
        wire.endheaders()
        try:
            while taken < size:
                piece = b"x" * 65536
                wire.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                taken += len(piece)
        except OSError:
            pass
        with wire.getresponse() as answer:
            return answer.status, taken


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_taken_from_those_only_who_may_call(
    redis_server: str, tmp_path: Path, wait_until: Wait, chunked: bool
) -> None:
    with serving(redis_server, tmp_path, wait_until, token="secret-of-sixteen-or-more") as url:
        kind = {"Content-Type": "application/json"}
        try:
            status, taken = body(url, 1 << 30, kind, chunked=chunked)
        except (ConnectionResetError, BrokenPipeError):  # the answer was lost with the connection
            status, taken = 401, 0
        assert status == 401
        assert taken < 100 << 20
        allowed = {"Authorization": "Bearer secret-of-sixteen-or-more"}
        job = httpx.post(f"{url}/v1/jobs", json=GOOD, headers=allowed, timeout=SOON)
        assert job.status_code == 201, job.text
        assert json.loads(job.text)["state"] == "queued"


def test_a_body_is_taken_from_those_only_whose_role_changes_something(
    redis_server: str, tmp_path: Path, wait_until: Wait
) -> None:
    secret = "secret-of-sixteen-or-more"
    with serving(redis_server, tmp_path, wait_until, token=secret) as url:
        tokens = {}
        for role in ("viewer", "user"):
            answer = httpx.post(
                f"{url}/v1/tokens",
                json={"name": "x", "owner": "ada", "role": role},
                headers={"Authorization": f"Bearer {secret}"},
                timeout=SOON,
            )
            tokens[role] = answer.json()["token"]
        kind = {"Content-Type": "application/json"}
        for role, expected in (("viewer", 403), ("user", 413)):
            headers = kind | {"Authorization": f"Bearer {tokens[role]}"}
            try:
                status, taken = body(url, 1 << 30, headers, chunked=False)
            except (ConnectionResetError, BrokenPipeError):
                status, taken = expected, 0
            assert status == expected
            assert taken < 100 << 20
        with httpx.Client(base_url=url, timeout=SOON) as page:
            me = page.post("/v1/session", json={"token": tokens["user"]}).json()
            job = page.post("/v1/jobs", json=GOOD, headers={"Spectrain-CSRF-Token": me["csrf"]})
            assert job.json()["owner"] == "ada", "the loop of the server knows sessions too"
            assert page.post("/v1/session", json={"token": "x" * 5000}).status_code in {400, 413}


def test_a_request_in_progress_is_answered_when_the_server_is_told_to_end(
    own_redis: OwnRedis, tmp_path: Path, wait_until: Wait
) -> None:
    config, start = own_redis
    redis = start()
    found: list[int] = []
    before = children("api.server.serve")
    with serving(config.url, tmp_path, wait_until) as url:
        (server,) = children("api.server.serve") - before
        os.kill(redis.pid, signal.SIGSTOP)
        caller = threading.Thread(target=lambda: found.append(answers(url)))
        caller.start()
        time.sleep(0.5)
        os.kill(server, signal.SIGTERM)
        time.sleep(0.5)
        os.kill(redis.pid, signal.SIGCONT)
        caller.join()
        assert found == [200]
        wait_until(lambda: server not in children("api.server.serve"), what="the server's end")


def children(word: str) -> set[int]:
    """The processes with a word in their command that this one has started."""
    command = ["ps", "-wwo", "pid,args", "--ppid", str(os.getpid())]
    every = subprocess.run(command, capture_output=True, text=True, check=True)
    return {int(line.split()[0]) for line in every.stdout.splitlines() if word in line}
