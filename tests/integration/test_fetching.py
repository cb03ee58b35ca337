"""What the client downloads of a run: what is new, from where it stopped, several at once."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from click.testing import CliRunner
from werkzeug.serving import make_server

from api.cli.main import cli
from api.client import transport
from api.client.client import Client
from api.client.files import PARTS
from api.client.transport import ApiError, Unreachable
from jobs.settings import Settings
from tests.integration.http_calls import GOOD, MakeApp
from tests.integration.latency import far_away

BIG = bytes(range(256)) * 20_000


class Watched:
    """A service that notes what is asked for, and cuts answers where it is told to."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.asked: list[tuple[str, str | None]] = []
        self.cut_after: dict[str, int] = {}  # bytes, once each
        self.amid: Callable[[], object] = lambda: None  # called when an answer has begun
        self.together = threading.Semaphore(0)
        self.open = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        name = environ["PATH_INFO"].partition("/artifacts/")[2]
        if not name:
            return self._app(environ, start)  # type: ignore[no-any-return]
        self.asked.append((name, environ.get("HTTP_RANGE")))
        return self._send(name, self._app(environ, start))

    def _send(self, name: str, body: Iterable[bytes]) -> Iterator[bytes]:
        with self._lock:
            self.open += 1
            self.most = max(self.most, self.open)
        left = self.cut_after.pop(name, None)
        try:
            for block in body:
                if left is not None:
                    yield block[:left]
                    left -= len(block)
                    if left <= 0:
                        raise ConnectionAbortedError
                else:
                    yield block
                    self.amid()
        finally:
            body.close()  # type: ignore[attr-defined]
            with self._lock:
                self.open -= 1


@pytest.fixture
def watched(settings: Settings, make_app: MakeApp) -> Watched:
    return Watched(make_app(settings))


@pytest.fixture
def url(watched: Watched) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, watched, threaded=True)
    server.log = lambda *_: None  # type: ignore[assignment]  # it prints what the tests cut
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, patience=0) as client:
        yield client


@pytest.fixture
def run(client: Client, settings: Settings) -> Path:
    """The directory of a job's run."""
    root = Path(settings.storage_url.removeprefix("file://")) / client.submit(GOOD).id
    root.mkdir(parents=True)
    return root


def test_an_interrupted_download_goes_on_where_it_stopped(
    client: Client, run: Path, watched: Watched, tmp_path: Path
) -> None:
    (run / "big").write_bytes(BIG)
    watched.cut_after["big"] = 3_000_000
    with pytest.raises(Unreachable):
        client.fetch(run.name, tmp_path / "here")
    assert not (tmp_path / "here/big").exists()
    come: list[tuple[int, int]] = []
    client.fetch(run.name, tmp_path / "here", on_progress=lambda *some: come.append(some))
    assert (tmp_path / "here/big").read_bytes() == BIG
    (_, first), (_, second) = watched.asked
    assert first is None
    assert second is not None
    begin = int(second.removeprefix("bytes=").removesuffix("-"))
    assert 0 < begin <= 3_000_000
    assert come[1] == (begin, len(BIG))
    assert come[-1] == (len(BIG), len(BIG))
    assert not (tmp_path / "here" / PARTS).exists()


def test_a_broken_connection_is_taken_up_within_one_call(
    url: str, run: Path, watched: Watched, tmp_path: Path
) -> None:
    (run / "big").write_bytes(BIG)
    watched.cut_after["big"] = 2_000_000
    with Client(url, patience=60) as client:
        client.fetch(run.name, tmp_path)
    assert (tmp_path / "big").read_bytes() == BIG
    assert watched.asked[1][1] is not None


@pytest.mark.parametrize("change", ["same size", "other size"])
def test_a_file_that_has_changed_meanwhile_comes_whole(
    client: Client, run: Path, watched: Watched, tmp_path: Path, change: str
) -> None:
    (run / "big").write_bytes(BIG)
    watched.cut_after["big"] = 3_000_000
    with pytest.raises(Unreachable):
        client.fetch(run.name, tmp_path)
    other = BIG[::-1] if change == "same size" else BIG[1::2]
    (run / "big").write_bytes(other)
    client.fetch(run.name, tmp_path)
    assert (tmp_path / "big").read_bytes() == other


def test_a_part_of_another_version_is_dropped_even_under_the_same_time_and_size(
    client: Client, run: Path, watched: Watched, tmp_path: Path
) -> None:
    (run / "big").write_bytes(BIG)
    watched.cut_after["big"] = 3_000_000
    with pytest.raises(Unreachable):
        client.fetch(run.name, tmp_path)
    (tag,) = (tmp_path / PARTS).glob("*.etag")
    tag.write_text('"of another version"')
    part = tag.with_suffix("")
    part.write_bytes(b"x" * part.stat().st_size)
    come: list[tuple[int, int]] = []
    client.fetch(run.name, tmp_path, on_progress=lambda *some: come.append(some))
    assert (tmp_path / "big").read_bytes() == BIG
    assert come[-1] == (len(BIG), len(BIG))


def test_several_files_come_at_once_and_each_once(
    client: Client, run: Path, watched: Watched, tmp_path: Path
) -> None:
    files = {f"file{n}": bytes([n]) * 3_000_000 for n in range(12)}
    for name, data in files.items():
        (run / name).write_bytes(data)
    fetched = client.fetch(run.name, tmp_path)
    assert {path.name: path.read_bytes() for path in fetched} == files
    assert sorted(name for name, _ in watched.asked) == sorted(files)
    assert 1 < watched.most <= 8
    assert client.fetch(run.name, tmp_path) == fetched
    assert len(watched.asked) == len(files), "what is here is not asked for"


def test_a_download_that_takes_long_is_no_silence(
    url: str, run: Path, tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., Any],
) -> None:  # fmt: skip
    def is_timed() -> bool:
        return any(isinstance(thread, threading.Timer) for thread in threading.enumerate())

    monkeypatch.setattr(transport, "_SILENT_SECONDS", 10.0)
    watched.amid = lambda: wait_until(lambda: not is_timed(), what="the end of the timer")
    (run / "big").write_bytes(BIG)
    said: list[str] = []
    with Client(url, patience=0, on_wait=said.append) as client:
        client.fetch(run.name, tmp_path / "out")
    assert said == []


def test_many_files_of_a_service_far_away_do_not_wait_for_each_other(
    url: str, run: Path, tmp_path: Path
) -> None:
    count, latency = 60, 0.05
    for number in range(count):
        (run / f"file_{number}").write_bytes(b"x" * 1000)
    with far_away(urlsplit(url).port or 0, latency) as distant, Client(distant) as client:
        started = time.monotonic()
        assert len(client.fetch(run.name, tmp_path / "out")) == count
        took = time.monotonic() - started
    assert took < count * latency / 2, "one after the other they take longer than all latencies"


def test_a_file_that_is_gone_meanwhile_is_left_out(
    client: Client, run: Path, watched: Watched, tmp_path: Path
) -> None:
    (run / "old").write_bytes(b"old")
    (run / "stays").write_bytes(b"stays")
    listing = client._listing(run.name)
    (run / "old").unlink()
    client._listing = lambda _: listing  # type: ignore[method-assign,assignment]
    assert [path.name for path in client.fetch(run.name, tmp_path)] == ["stays"]


def test_one_file_is_downloaded_by_its_name(client: Client, run: Path, tmp_path: Path) -> None:
    (run / "logs").mkdir()
    (run / "logs/a").write_text("a")
    (run / "b").write_text("b")
    assert client.download(run.name, "logs/a", tmp_path) == tmp_path / "logs/a"
    assert not (tmp_path / "b").exists()
    with pytest.raises(FileNotFoundError, match="has no file 'c'"):
        client.download(run.name, "c", tmp_path)
    with pytest.raises(ApiError):
        client.download("wave-23456789", "c", tmp_path)


def test_the_command_prints_the_paths_and_says_what_was_new(
    url: str, run: Path, tmp_path: Path
) -> None:
    (run / "big").write_bytes(BIG)
    (run / "small").write_text("s")
    words = ["--url", url, "fetch", run.name, str(tmp_path / "out")]
    done = CliRunner().invoke(cli, words)
    assert done.stdout.split() == [str(tmp_path / "out/big"), str(tmp_path / "out/small")]
    assert done.stderr == "2 files, 5.1 MB new\n"
    (run / "small").write_text("t")
    assert CliRunner().invoke(cli, words).stderr == "2 files, 1 B new\n"
    assert CliRunner().invoke(cli, words).stderr == "2 files, nothing new\n"


def test_metrics_are_rows_and_arrays(client: Client, run: Path) -> None:
    (run / "logs").mkdir()
    (run / "logs/metrics.jsonl").write_text(
        '{"step": 0, "loss": 2.5, "note": "x"}\n{"step": 1, "loss": "NaN", "lr": 0.1}\n'
    )
    metrics = client.metrics(run.name)
    assert [row["step"] for row in metrics] == [row["step"] for row in metrics] == [0, 1]
    arrays = metrics.arrays()
    assert list(arrays) == ["step", "loss", "lr"]
    np.testing.assert_array_equal(arrays["step"], [0, 1])
    np.testing.assert_array_equal(arrays["loss"], [2.5, np.nan])
    np.testing.assert_array_equal(arrays["lr"], [np.nan, 0.1])


def test_metrics_are_a_table_of_pandas(
    client: Client, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    metrics = client.metrics(run.name)
    assert metrics.frame().empty, "a run that has logged nothing yet"
    (run / "logs").mkdir()
    rows = "".join(f'{{"step": {n}, "loss": {4.0 - n}}}\n' for n in range(3))
    (run / "logs/metrics.jsonl").write_text(
        f'{rows}{{"step": 3, "loss": "Infinity", "lr": 0.5, "note": "warm"}}\n'
    )
    frame = metrics.frame()
    expected = pd.DataFrame(
        {
            "loss": [4.0, 3.0, 2.0, np.inf],
            "lr": [np.nan] * 3 + [0.5],
            "note": [None] * 3 + ["warm"],
        },
        index=pd.Index(range(4), name="step"),
    )
    pd.testing.assert_frame_equal(frame, expected, check_index_type=False)
    assert frame["loss"].rolling(2).mean()[2] == 2.5
    assert frame["loss"].idxmin() == 2
    assert list(client.metrics(run.name, after_step=1).frame().index) == [2, 3]
    # Without pandas the rest works.
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError):
        metrics.frame()
    assert metrics.arrays()["step"].tolist() == [0, 1, 2, 3]
