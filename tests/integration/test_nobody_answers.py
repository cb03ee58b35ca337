"""What the command line says, and when, where nobody answers."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from api.client.client import Client, Unreachable
from api.local.redis_server import free_port
from tests.integration.warm_python import Program, WarmPython

Wait = Callable[..., Any]
ID = "wave-23456789"


@pytest.fixture
def nowhere() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def hung() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def start(warm_python: WarmPython) -> Callable[..., Program]:
    """Starts the command line."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("SPECTRAIN_")}
    return partial(warm_python.start, "api.cli", env=env)


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        (["submit", "-"], 5), (["submit", "-", "--wait"], 120), (["submit", "-", "-f"], 120),
        (["ls"], 5), (["show", ID], 5), (["show", "wave"], 5), (["logs", ID], 5),
        (["logs", ID, "-f"], 120), (["cancel", ID], 5), (["pause", ID], 5), (["rm", ID], 5),
        (["change", ID, "--priority", "1"], 5), (["fetch", ID], 5), (["workers"], 5),
        (["pools"], 5), (["worker", "drain", "w"], 5), (["watch"], 120), (["watch", ID], 120),
        (["events"], 5), (["audit"], 5), (["events", "-f"], 120), (["metrics", ID], 5),
        (["plot", ID], 5),
        (["diff", ID, ID], 5), (["compare", ID, ID], 5), (["fork", ID], 5), (["ls", "--mine"], 5),
        (["submit", "-", "--dry-run"], 5), (["cancel", "--all"], 5), (["logs", ID, "-s", "a"], 5),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_every_command_says_at_once_what_it_waits_for(
    nowhere: str, words: list[str], seconds: int, start: Callable[..., Program], wait_until: Wait
) -> None:
    process = start("--url", nowhere, *words, text='{"name": "wave", "command": ["true"]}')
    wait_until(lambda: "\n" in process.stderr, what="a line")
    assert process.stderr == f"No service answers at {nowhere}, retrying for {seconds} s\n"
    assert process.poll() is None
    process.kill()


@pytest.mark.parametrize("words", [["ls"], ["logs", ID, "--follow"], ["cancel", ID]])
def test_the_timeout_ends_the_waiting_with_a_sentence(
    nowhere: str, words: list[str], start: Callable[..., Program]
) -> None:
    started = time.monotonic()
    process = start("--url", nowhere, "--timeout", "3", *words)
    assert (process.wait(60), process.stdout) == (1, "")
    first, last = process.stderr.splitlines()
    assert first == f"No service answers at {nowhere}, retrying for 3 s"
    assert last.startswith(f"Error: No service answers at {nowhere} (")
    assert time.monotonic() - started < 20


def test_a_server_that_takes_the_connection_and_is_silent_is_told_after_a_moment(
    hung: str, start: Callable[..., Program]
) -> None:
    process = start("--url", hung, "--timeout", "2", "ls")
    assert (process.wait(60), process.stdout) == (1, "")
    first, *_, last = process.stderr.splitlines()
    assert first == f"{hung} has not answered yet, waiting up to 2 s"
    assert "Error: No service answers at" in last


def test_an_address_that_is_none_is_refused_without_waiting(start: Callable[..., Program]) -> None:
    process = start("--url", "nonsense", "--timeout", "60", "ls")
    assert process.wait(30) == 1
    assert process.stderr.startswith("Error: No service answers at nonsense (")


class Counts(BaseHTTPRequestHandler):
    """Answers 503 and counts the calls."""

    def do_POST(self) -> None:
        self.server.calls += 1  # type: ignore[attr-defined]
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


def test_what_must_not_be_done_twice_waits_for_a_connection_and_is_sent_once(
    nowhere: str, wait_until: Wait
) -> None:
    sentences: list[str] = []
    ended: list[Exception] = []

    def cancel() -> None:
        with Client(nowhere, patience=60, on_wait=sentences.append) as client:
            try:
                client.cancel(ID)
            except Exception as error:
                ended.append(error)

    thread = threading.Thread(target=cancel)
    thread.start()
    wait_until(lambda: sentences, what="a sentence")
    server = HTTPServer(("127.0.0.1", int(nowhere.rpartition(":")[2])), Counts)
    server.calls = 0  # type: ignore[attr-defined]
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    thread.join(60)
    server.shutdown()
    serving.join()
    server.server_close()
    assert server.calls == 1  # type: ignore[attr-defined]
    assert [str(error.status) for error in ended] == ["503"]  # type: ignore[attr-defined]


def test_the_library_says_nothing_by_itself(
    nowhere: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with Client(nowhere, patience=0.3) as client, pytest.raises(Unreachable):
        client.get(ID)
    assert capfd.readouterr() == ("", "")
