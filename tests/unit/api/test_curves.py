"""Curves in buckets: as a plain reading of the file has them, however it grows and is rewound."""

from __future__ import annotations

import itertools
import json
import math
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.server.curves import index, indexes, table
from api.server.curves.buckets import Curve
from api.server.curves.index import MetricsIndex, View
from api.server.curves.indexes import MetricsIndexes
from monitoring.storage.base import Storage
from monitoring.storage.open import open_storage

KEY = "run/logs/metrics.jsonl"
AXES = {"step": 0, "time": 1, "tokens": 2}


class Metrics:
    """A file of metrics in a storage that counts the bytes that are read."""

    def __init__(self, root: Path) -> None:
        self.file = root / KEY
        self.file.parent.mkdir(parents=True)
        self._storage = open_storage(root.as_uri())
        self._times = itertools.count(1_000_000_000)
        self.bytes = 0
        self.before_read: Callable[[], object] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def read(self, key: str, start: int = 0, size: int = -1) -> bytes:
        self.before_read()
        data = self._storage.read(key, start, size)
        self.bytes += len(data)
        return data

    def write(self, text: bytes) -> None:
        self.file.write_bytes(text)
        at = next(self._times)  # a clock finer than that of the file system
        os.utime(self.file, (at, at))

    @property
    def storage(self) -> Storage:
        return cast(Storage, self)


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return Metrics(tmp_path)


def extended(metrics: Metrics, given: MetricsIndex | None = None) -> MetricsIndex:
    found = given or MetricsIndex(KEY)
    found.extend(metrics.storage)
    return found


def lines(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def losses(*steps: int) -> bytes:
    return lines(*({"step": step, "timestamp": 100.0 + step, "loss": step / 8} for step in steps))


# -- a plain implementation -------------------------------------------------------------------

Point = tuple[tuple[float, float, float], float]
Plain = tuple[list[float], list[float], list[float], list[float], list[int]]


def number(value: Any) -> float | None:
    words = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    if isinstance(value, str):
        return words.get(value)
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return value if type(value) is float else None


def read_plainly(text: bytes) -> dict[str, list[Point]]:
    """Every number of every metric, with its place on the three axes."""
    rows = []
    for line in text.split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("step")) is int and abs(row["step"]) < 2**63:
            rows.append(row)
    found: dict[str, list[Point]] = {}
    start = time = tokens = math.nan
    for row in rows:
        stamp: Any = row.get("timestamp")
        if type(stamp) in (int, float) and math.isfinite(stamp):
            start = stamp if math.isnan(start) else start
            time = stamp - start
        seen: Any = row.get("tokens_seen")
        if type(seen) in (int, float) and math.isfinite(seen):
            tokens = seen
        for name, value in row.items():
            one = number(value)
            if name not in {"step", "timestamp"} and one is not None:
                found.setdefault(name, []).append(((row["step"], time, tokens), one))
    return found


def bucketed(
    points: list[Point], most: int, axis: int, asked: int, low: float | None, high: float | None
) -> Plain:
    """Buckets as the docstrings promise them; `most` is that of the index, None: no merging."""
    size = 1
    while math.ceil(len(points) / size) > most:
        size *= 2
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    least, largest = -math.inf if low is None else low, math.inf if high is None else high

    def places(part: list[Point]) -> list[float]:
        return [place[axis] for place, _ in part if not math.isnan(place[axis])]

    parts = [
        p for p in parts if places(p) and max(places(p)) >= least and min(places(p)) <= largest
    ]
    together = max(1, math.ceil(len(parts) / asked))
    groups = [list(itertools.chain(*parts[i : i + together]))
              for i in range(0, len(parts), together)]  # fmt: skip
    plain: Plain = ([], [], [], [], [])
    for group in groups:
        values = [value for _, value in group]
        finite = [value for value in values if math.isfinite(value)]
        plain[0].append(max(places(group)))
        plain[1].append(min(finite, default=math.inf))
        plain[2].append(max(finite, default=-math.inf))
        plain[3].append(values[-1])
        plain[4].append(len(values) - len(finite))
    return plain


def as_text(plain: Plain) -> str:
    return repr([[float(x) for x in column] for column in plain])


def columns(curve: Curve) -> str:
    return as_text(cast(Plain, (curve.x, curve.low, curve.high, curve.last, curve.bad)))


# -- the property -----------------------------------------------------------------------------

SOME_FLOATS = st.floats() | st.sampled_from([0.0, 1.0, -1.5, 1e308])
VALUES = (
    SOME_FLOATS
    | st.integers(-(10**400), 10**400)
    | st.integers(-5, 5)
    | st.sampled_from(["NaN", "Infinity", "-Infinity", "\\NaN", "text", True, None, [1], {"a": 1}])
)
STEPS = st.integers(-2, 60) | st.integers(-(2**70), 2**70) | st.sampled_from([1.0, "1", None])
ROWS = st.fixed_dictionaries(
    {"step": STEPS},
    optional={
        "timestamp": st.floats(0, 1e9) | st.sampled_from([5, "late", math.nan]),
        "loss": SOME_FLOATS,
        "val_loss": VALUES,
        "tokens_seen": st.integers(0, 10**6) | st.sampled_from(["many", math.inf]),
    },
)
BAD = st.sampled_from(
    [b"", b"[1]", b"7", b'{"step": 1', b'"loss": 2}', b"\xff", b'{"step": 3, "loss": 1e999}',
     b'{"step": 4, "loss": "\\ud800", "val_loss": 3}', b'{"step": 5, "loss": ' + b"[" * 3000,
     b'{"step": 6, "loss": 1}\r', b'{"step": 7, "\\udfff": 1, "loss": 2}', b"x" * 300],
)  # fmt: skip
LINES = ROWS.map(lambda row: json.dumps(row).encode()) | BAD
VIEWS = st.tuples(
    st.sampled_from(list(AXES)),
    st.integers(1, 12),
    st.none() | st.integers(-5, 70) | st.floats(-1, 1e9),
    st.none() | st.integers(-5, 70) | st.floats(-1, 1e9),
)
# What happens between two requests: the share of the lines that stays, and lines that are added.
CHANGES = st.tuples(st.sampled_from([1.0, 1.0, 0.5, 0.0]), st.lists(LINES, max_size=30))


@pytest.fixture
def small() -> Iterator[None]:
    """Limits so small that a short file reaches all of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "_MOST_BUCKETS": 8, "_FEWEST_BUCKETS": 8, "_BLOCK": 1024, "_SLICE": 100,
            "EXACT_BYTES": 300, "_RATHER_EXACT_BYTES": 600, "_FEW_BUCKETS": 3, "_MOST_PLACES": 5,
        }.items():  # fmt: skip
            patch.setattr(index, name, value)
        yield


@pytest.mark.usefixtures("small")
@given(st.lists(st.tuples(CHANGES, VIEWS), min_size=1, max_size=5))
def test_curves_are_those_of_a_plain_reading_however_the_file_grows_and_is_rewound(
    story: list[tuple[tuple[float, list[bytes]], tuple[str, int, float | None, float | None]]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        metrics = Metrics(Path(directory))
        found, held, mark, covered = MetricsIndex(KEY), list[bytes](), itertools.count(), b""
        for (share, new), (axis_name, points, low, high) in story:
            kept = held[: int(len(held) * share)]
            # No two attempts write the same row: its timestamp is another.
            held = [*kept, *new, b'{"mark": %d}' % next(mark)]
            text = b"".join(line + b"\n" for line in held)
            metrics.write(text + b'{"step": 1, "lo')
            cursor = found.cursor
            extended(metrics, found)
            plain = read_plainly(text)
            plain.pop("\udfff", None)  # a name that no answer could have
            names, axis = ("loss", "val_loss", "absent"), AXES[axis_name]
            assert found.names() == {name: len(points) for name, points in plain.items()}
            for name, curve in found.curves(
                metrics.storage, View(names, axis, points, low, high)
            ).items():
                ranges = (axis, points, low, high)
                rows = plain.get(name, [])
                exact = as_text(bucketed(rows, 10**9, *ranges))
                merged = as_text(bucketed(rows, 8, *ranges))
                if (low, high) == (None, None):
                    assert columns(curve) == merged
                else:
                    assert columns(curve) in {exact, merged}
            since = found.since(metrics.storage, cursor, View(names, axis, points, low, high))
            is_there = text.startswith(covered)
            assert (since is None) == (not is_there or len(text) - len(covered) > 300)
            for name, curve in (since or {}).items():
                rows = plain.get(name, [])[len(read_plainly(covered).get(name, [])) :]
                assert columns(curve) == as_text(bucketed(rows, 10**9, axis, points, low, high))
            covered = text


# -- promises by name -------------------------------------------------------------------------


def test_a_request_reads_only_what_is_new(metrics: Metrics) -> None:
    text = losses(*range(50_000))
    metrics.write(text)
    found = extended(metrics)
    assert metrics.bytes == len(text)
    metrics.bytes = 0
    extended(metrics, found)
    assert metrics.bytes == 0, "nothing has changed"
    new = losses(50_000)
    metrics.write(text + new)
    extended(metrics, found)
    assert metrics.bytes == len(new) + index._TAIL
    assert found.rows == 50_001


@pytest.mark.parametrize("again", [range(10, 12), range(10, 20), range(10, 60)])
def test_rows_that_an_attempt_replaced_are_those_of_the_newer_attempt(
    metrics: Metrics, again: range
) -> None:
    """The file is shorter than before, as long, and longer."""
    metrics.write(losses(*range(20)))
    found = extended(metrics)
    new = [{"step": step, "timestamp": 200.0 + step, "loss": -step / 8} for step in again]
    metrics.write(losses(*range(10)) + lines(*new))
    curve = extended(metrics, found).curves(metrics.storage, View(["loss"]))["loss"]
    assert list(curve.x) == [*range(10), *again]
    assert list(curve.last) == [s / 8 for s in range(10)] + [-s / 8 for s in again]


def test_a_spike_of_one_row_in_a_hundred_thousand_is_seen(metrics: Metrics) -> None:
    rows = [{"step": step, "loss": 1.0} for step in range(100_000)]
    rows[77_777]["loss"], rows[33_333]["loss"] = 9.0, math.nan
    metrics.write(lines(*rows))
    curve = extended(metrics).curves(metrics.storage, View(["loss"], points=100))["loss"]
    assert len(curve.x) <= 100
    assert max(curve.high) == 9.0
    assert sum(curve.bad) == 1


def test_a_narrow_view_of_a_long_run_has_each_row(metrics: Metrics) -> None:
    metrics.write(losses(*range(100_000)))
    found = extended(metrics)
    metrics.bytes = 0
    curve = found.curves(metrics.storage, View(["loss"], 0, 2000, 70_000, 70_999))["loss"]
    assert list(curve.x) == [*range(70_000, 71_000)]
    assert list(curve.last) == [step / 8 for step in range(70_000, 71_000)]
    assert metrics.bytes < index.EXACT_BYTES


def test_an_index_of_a_long_run_and_of_many_metrics_is_small(metrics: Metrics) -> None:
    metrics.write(losses(*range(100_000)))
    assert extended(metrics).size_bytes < 2_000_000
    names = [*(f"grad/{number}" for number in range(2_500)), "loss"]
    metrics.write(lines(*({"step": s} | dict.fromkeys(names, 1.0) for s in range(200))))
    found = extended(metrics)
    assert len(found.names()) == 2_000
    assert "loss" in found.names()
    assert found.size_bytes < index.RUN_BYTES


def test_a_line_longer_than_a_block_is_left_out(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_BLOCK", 4096)
    metrics.write(losses(1) + b"[" * 10_000 + b"\n" + losses(2))
    assert extended(metrics).rows == 2
    metrics.write(losses(1) + b"[" * 10_000)
    found = extended(metrics)
    metrics.write(losses(1) + b"[" * 10_000 + losses(2) + losses(3))
    assert extended(metrics, found).rows == 2


def test_a_file_that_is_rewound_while_it_is_read_is_read_anew(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_BLOCK", 1000)
    metrics.write(losses(*range(100)))
    reads = itertools.count()

    def rewind() -> None:
        if next(reads) == 2:
            metrics.write(losses(*range(5), *range(1000, 1200)))

    metrics.before_read = rewind
    curve = extended(metrics).curves(metrics.storage, View(["loss"]))["loss"]
    assert list(curve.x) == [*range(5), *range(1000, 1200)]


def test_two_requests_for_one_run_read_it_once(metrics: Metrics) -> None:
    text = losses(*range(20_000))
    metrics.write(text)
    together, all_there = MetricsIndexes(), threading.Barrier(4)

    def ask() -> None:
        all_there.wait()
        with together.extended(KEY, metrics.storage) as found:
            assert found.rows == 20_000

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.bytes == len(text)


def test_the_memory_of_all_runs_is_bounded_and_the_newest_stay(tmp_path: Path) -> None:
    storage = open_storage(tmp_path.as_uri())
    keys = [f"run-{number}/logs/metrics.jsonl" for number in range(6)]
    for key in keys:
        (tmp_path / key).parent.mkdir(parents=True)
        (tmp_path / key).write_bytes(losses(*range(1000)))
    with MetricsIndexes().extended(keys[0], storage) as one:
        size = one.size_bytes
    few = MetricsIndexes(int(3.5 * size))
    for key in [*keys[:3], keys[0], *keys[3:5]]:
        with few.extended(key, storage):
            assert few.size_bytes <= 3.5 * size
    assert list(few._indexes) == [keys[0], *keys[3:5]]
    assert indexes.TOTAL_BYTES >= 4 * index.RUN_BYTES


def test_tokens_are_placed_by_the_metric_that_counts_them(metrics: Metrics) -> None:
    for name in table.TOKEN_METRICS:
        metrics.write(lines({"step": 1, "loss": 2.0}, {"step": 2, name: 50, "loss": 3.0}))
        curve = extended(metrics).curves(metrics.storage, View(["loss"], table.TOKENS))["loss"]
        assert (list(curve.x), list(curve.last)) == ([50.0], [3.0])
