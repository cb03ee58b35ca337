"""What containers ask of the API: its health check, and the command line with a token of a file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from api.cli.main import cli
from api.server.healthcheck import failure
from jobs.settings import Settings


class Answers(BaseHTTPRequestHandler):
    """Answers every call with the server's `status` and an empty list; keeps what came."""

    def do_GET(self) -> None:
        self.server.calls.append((self.path, self.headers["Authorization"]))  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"workers": []}')

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    server.status, server.calls = 200, []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_health_check_asks_the_port_that_the_api_listens_on(server: HTTPServer) -> None:
    for host in ("0.0.0.0", "127.0.0.1"):
        assert failure(Settings(api_host=host, api_port=server.server_port)) == ""
    assert {path for path, _ in server.calls} == {"/healthz"}  # type: ignore[attr-defined]
    server.status = 503  # type: ignore[attr-defined]
    answer = failure(Settings(api_host="127.0.0.1", api_port=server.server_port))
    assert answer == "The API answers 503."


def test_the_health_check_fails_where_nobody_listens() -> None:
    assert "does not answer on port 1:" in failure(Settings(api_host="0.0.0.0", api_port=1))


def test_the_command_line_sends_the_first_token_of_a_file(
    server: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokens").write_text(" first , second\n")
    monkeypatch.delenv("SPECTRAIN_API_TOKEN", raising=False)
    monkeypatch.setenv("SPECTRAIN_API_TOKEN_FILE", str(tmp_path / "tokens"))
    call = ["--url", f"http://127.0.0.1:{server.server_port}", "workers"]
    assert CliRunner().invoke(cli, call).exit_code == 0
    monkeypatch.setenv("SPECTRAIN_API_TOKEN", "named")
    assert CliRunner().invoke(cli, call).exit_code == 0
    sent = [token for _, token in server.calls]  # type: ignore[attr-defined]
    assert sent == ["Bearer first", "Bearer named"]


def test_a_token_file_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPECTRAIN_API_TOKEN", raising=False)
    monkeypatch.setenv("SPECTRAIN_API_TOKEN_FILE", str(tmp_path / "missing"))
    ended = CliRunner().invoke(cli, ["workers"])
    assert ended.exit_code == 2
    assert "SPECTRAIN_API_TOKEN_FILE" in ended.output
