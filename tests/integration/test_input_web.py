"""Inputs from web servers that cut, change and hang, and several workers that fetch at once."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from api.local.redis_server import free_port
from jobs.settings import Settings
from monitoring.storage.base import StorageError
from tests.integration.inputs import BLOB, MB, Inputs
from worker.inputs import web
from worker.inputs.open import open_source
from worker.inputs.source import InputError

ETAG, MODIFIED = '"one"', "Sun, 29 Nov 2026 06:00:00 GMT"


@pytest.fixture
def inputs(tmp_path: Path) -> Iterator[Inputs]:
    inputs = Inputs(tmp_path / "cache")
    yield inputs
    inputs.close()


# -- web servers ------------------------------------------------------------------------------


class Site:
    """A web server with one file; attributes say how it answers.

    `cuts`: after how many bytes the next answers to GET break off. `before_get` is called first,
    with the number of the GET, and `before_head` before HEAD.
    """

    def __init__(self) -> None:
        self.body, self.etag, self.modified = BLOB, ETAG, ""
        self.statuses: dict[str, int] = {}  # by method
        self.moved: dict[str, str] = {}  # paths and where they lead
        self.cuts: list[int] = []
        self.knows_ranges = True
        self.minds_if_range = True
        self.tells_length = True
        self.hangs_up_on_head = False
        self.before_get: Callable[[int], Any] = lambda _: None
        self.before_head: Callable[[], Any] = lambda: None
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    def gets(self) -> list[dict[str, str]]:
        """The headers of each GET."""
        return [headers for method, headers in self.requests if method == "GET"]


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            site.requests.append((self.command, dict(self.headers.items())))
            if self.command == "GET":
                site.before_get(len(site.gets()))
            else:
                site.before_head()
            if self.command == "HEAD" and site.hangs_up_on_head:
                self.close_connection = True
                return
            body, status, start = site.body, site.statuses.get(self.command, 200), 0
            if self.path in site.moved:
                status, body = 302, b""
            rest = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            given = self.headers.get("If-Range")
            is_same = given in {site.etag, site.modified} or not site.minds_if_range
            if rest and status == 200 and site.knows_ranges and is_same:
                status, start = 206, int(rest[1])
            self.send_response(status)
            if status == 206:
                last = len(body) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(body)}")
            for name, value in (
                ("ETag", site.etag), ("Last-Modified", site.modified),
                ("Location", site.moved.get(self.path, "")),
                ("Content-Length", str(len(body) - start) if site.tells_length else ""),
            ):  # fmt: skip
                if value:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.close_connection = True
            self.end_headers()
            if self.command == "GET":
                cut = site.cuts.pop(0) if site.cuts and status < 300 else len(body)
                self.wfile.write(body[start : start + cut])

        def handle_one_request(self) -> None:
            with contextlib.suppress(OSError):
                super().handle_one_request()
                return
            self.close_connection = True

        do_GET = do_HEAD = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(web, "_LONGEST_PAUSE", 0.1)
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/data.bin"
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_from_the_web_is_fetched_once_and_without_credentials(
    inputs: Inputs, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "secret")
    told: list[tuple[int, int]] = []
    found = inputs.have(site.url, on_progress=lambda done, total: told.append((done, total)))
    assert found.path.read_bytes() == BLOB
    assert found.path.name == "data.bin"
    assert told[-1] == (len(BLOB), len(BLOB))
    assert not inputs.have(site.url).built
    assert len(site.gets()) == 1
    for _, headers in site.requests:
        assert not {"authorization", "cookie"} & {name.lower() for name in headers}
        assert headers["Accept-Encoding"] == "identity", "another size than it says"
    site.etag = '"two"'
    assert inputs.have(site.url).built


def test_the_same_etag_elsewhere_is_another_file(inputs: Inputs, site: Site) -> None:
    first = inputs.have(site.url)
    site.body = BLOB[::-1]
    second = inputs.have(site.url.replace("data.bin", "other/data.bin"))
    assert first.version == second.version
    assert second.path.read_bytes() == BLOB[::-1]


@pytest.mark.parametrize("status", [403, 404, 405, 501])
def test_a_server_that_refuses_head_is_asked_by_get(
    inputs: Inputs, site: Site, status: int
) -> None:
    site.statuses["HEAD"] = status
    assert inputs.have(site.url).path.read_bytes() == BLOB
    assert not inputs.have(site.url).built


def test_a_server_that_hangs_up_on_head_is_asked_by_get(inputs: Inputs, site: Site) -> None:
    site.hangs_up_on_head = True
    assert inputs.have(site.url).path.read_bytes() == BLOB


def test_redirects_are_followed_but_not_in_circles(inputs: Inputs, site: Site) -> None:
    site.moved = {"/old": "/newer", "/newer": "/data.bin", "/a": "/b", "/b": "/a"}
    assert inputs.have(site.url.replace("data.bin", "old")).path.read_bytes() == BLOB
    with pytest.raises(InputError, match="redirects"):
        inputs.have(site.url.replace("data.bin", "a"))


@pytest.mark.parametrize(("etag", "modified"), [(ETAG, ""), ("", MODIFIED)])
def test_a_fetch_goes_on_where_the_connection_broke(
    inputs: Inputs, site: Site, etag: str, modified: str
) -> None:
    site.etag, site.modified = etag, modified
    site.cuts = [MB, 10, 10, 10, 10, 10, 10]
    assert inputs.have(site.url).path.read_bytes() == BLOB
    starts = [int(headers.get("Range", "bytes=0-")[6:-1]) for headers in site.gets()]
    assert starts == [0, *(MB + 10 * number for number in range(7))]
    assert {headers.get("If-Range") for headers in site.gets()[1:]} == {etag or modified}


@pytest.mark.parametrize(("etag", "modified"), [('W/"one"', ""), ("", "")])
def test_a_fetch_begins_again_where_nothing_says_that_the_rest_is_of_the_same_file(
    inputs: Inputs, site: Site, etag: str, modified: str
) -> None:
    site.etag, site.modified = etag, modified
    site.cuts = [MB, MB]
    assert inputs.have(site.url).path.read_bytes() == BLOB
    assert not any("Range" in headers for headers in site.gets())


def test_a_fetch_begins_again_at_a_server_without_ranges(site: Site, tmp_path: Path) -> None:
    site.knows_ranges, site.cuts = False, [MB]
    source, come = open_source(site.url, Settings()), []
    [item] = source.list(lambda size=0: None).items
    source.fetch(item, tmp_path / "target", lambda size=0: come.append(size))
    assert (tmp_path / "target").read_bytes() == BLOB
    assert sum(come) == len(BLOB), "the progress goes back"
    assert max(itertools.accumulate(come)) == len(BLOB)


def test_servers_of_one_name_that_have_different_files_give_no_mixture(
    inputs: Inputs, site: Site
) -> None:
    site.minds_if_range, site.cuts = False, [MB]

    def change(number: int) -> None:
        other = number == 2
        site.body, site.etag = (BLOB[::-1], '"two"') if other else (BLOB, ETAG)

    site.before_get, site.before_head = change, lambda: change(0)
    assert inputs.have(site.url).path.read_bytes() == BLOB
    assert len(site.gets()) > 2


def test_a_file_that_changed_while_the_connection_was_broken_is_fetched_anew(
    inputs: Inputs, site: Site
) -> None:
    site.cuts = [MB]

    def change(number: int) -> None:
        if number == 2:
            site.body, site.etag = BLOB[::-1], '"two"'

    site.before_get = change
    assert inputs.have(site.url).path.read_bytes() == BLOB[::-1]


def test_a_file_that_was_gone_for_a_moment_is_fetched_anew(inputs: Inputs, site: Site) -> None:
    site.cuts = [MB]
    site.before_get = lambda number: number == 2 and site.statuses.update(GET=404)
    site.before_head = site.statuses.clear
    assert inputs.have(site.url).path.read_bytes() == BLOB


def test_a_file_of_unknown_size_is_fetched(inputs: Inputs, site: Site) -> None:
    site.tells_length = False
    found = inputs.have(site.url)
    assert (found.bytes, found.path.read_bytes()) == (len(BLOB), BLOB)


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, r"there is nothing at .*\(404\)"), (410, "there is nothing"),
     (401, r"refused \(401\): a private file needs a presigned"), (403, r"refused \(403\)"),
     (400, "is no file: the server answers 400"), (204, "answers 204")],
)  # fmt: skip
def test_what_the_web_does_not_give_is_the_fault_of_the_job(
    inputs: Inputs, site: Site, caplog: pytest.LogCaptureFixture, status: int, words: str
) -> None:
    caplog.set_level("INFO")
    site.statuses = {"HEAD": status, "GET": status}
    with pytest.raises(InputError, match=words) as caught:
        inputs.have(f"{site.url}?X-Amz-Signature=secret")
    assert "secret" not in str(caught.value) + caplog.text
    assert inputs.left() == []


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_is_down_is_an_outage(inputs: Inputs, site: Site, status: int) -> None:
    site.statuses = {"HEAD": status, "GET": status}
    with pytest.raises(StorageError, match=f"cannot fetch .*it answers {status}"):
        inputs.have(site.url)
    assert len(site.requests) == 5


def test_a_server_that_is_gone_is_an_outage(inputs: Inputs, site: Site) -> None:
    with pytest.raises(StorageError, match=r"cannot fetch .*refused"):
        inputs.have(f"http://127.0.0.1:{free_port()}/a")


# -- several workers --------------------------------------------------------------------------

USER = """
import sys
from pathlib import Path
from jobs.settings import Settings
from worker.cache.cache import Cache
from worker.inputs.fetch import fetch_input
root, url = Path(sys.argv[1]), sys.argv[2]
found = fetch_input(Cache(root, 10**9), url, Settings(scratch_dir=root),
                    on_wait=lambda: print("waits", flush=True))
print(found.built, found.path, flush=True)
"""


@contextlib.contextmanager
def user(root: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that fetches an input."""
    command = [sys.executable, "-c", USER, str(root), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def gate(site: Site) -> Iterator[tuple[threading.Event, threading.Event]]:
    """What is set when a GET has come, and what the test sets to have it answered."""
    came, goes = threading.Event(), threading.Event()
    site.before_get = lambda _: (came.set(), goes.wait(60))
    yield came, goes
    goes.set()


Gate = tuple[threading.Event, threading.Event]


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_workers_at_once_fetch_once(inputs: Inputs, site: Site, gate: Gate) -> None:
    came, goes = gate
    with user(inputs.root, site.url) as first:
        assert came.wait(60)
        with user(inputs.root, site.url) as second:
            assert line(second) == "waits"
            goes.set()
            built, path = line(first).split()
            assert built == "True"
            assert line(second) == f"False {path}"
    assert len(site.gets()) == 1
    assert Path(path).read_bytes() == BLOB


def test_a_killed_fetch_leaves_nothing_that_counts(inputs: Inputs, site: Site, gate: Gate) -> None:
    came, goes = gate
    site.cuts = [MB]  # so that the second GET is in the middle
    goes.set()
    site.before_get = lambda number: number == 2 and (came.set(), time.sleep(60))
    with user(inputs.root, site.url) as killed:
        assert came.wait(60)
        drafts = list((inputs.root / "input").glob("*/drafts-*/*"))
        assert [draft.stat().st_size for draft in drafts] == [MB]
        killed.kill()
        killed.wait()
    found = inputs.have(site.url)
    assert found.built
    assert found.path.read_bytes() == BLOB


def no_thread_is_left() -> bool:
    return "input" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("at", [1, 2], ids=["the first bytes", "the middle"])
def test_a_fetch_that_nobody_wants_ends_although_the_server_hangs(
    inputs: Inputs, site: Site, wait_until: Callable[..., Any], at: int
) -> None:
    hangs, goes = threading.Event(), threading.Event()
    site.cuts = [MB]
    site.before_get = lambda number: number == at and (hangs.set(), goes.wait(60))
    begun = time.monotonic()
    assert inputs.fetch(site.url, wanted=lambda: not hangs.is_set()) is None
    taken = time.monotonic() - begun
    goes.set()
    assert taken < web._READ_SECONDS / 2
    assert inputs.left() == []
    wait_until(no_thread_is_left, what="the end of its thread")
    assert len(site.gets()) == at, "what is left behind goes on with nothing"
    assert inputs.have(site.url).path.read_bytes() == BLOB


def test_a_listing_that_nobody_wants_ends_too(inputs: Inputs, site: Site) -> None:
    hangs, goes = threading.Event(), threading.Event()
    site.statuses["HEAD"] = 405
    site.before_get = lambda _: (hangs.set(), goes.wait(60))
    begun = time.monotonic()
    assert inputs.fetch(site.url, wanted=lambda: not hangs.is_set()) is None
    taken = time.monotonic() - begun
    goes.set()
    assert taken < web._READ_SECONDS / 2
    assert not inputs.root.exists()


def test_a_pause_between_tries_ends_when_nobody_wants_the_fetch(
    inputs: Inputs,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., Any],
) -> None:
    monkeypatch.setattr(web, "_LONGEST_PAUSE", 600.0)
    monkeypatch.setattr(web.random, "random", lambda: 600.0)
    site.statuses["HEAD"] = 500
    assert inputs.fetch(site.url, wanted=lambda: not site.requests) is None
    wait_until(no_thread_is_left, what="the end of its thread")
