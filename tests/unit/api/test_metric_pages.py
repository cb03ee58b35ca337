"""Pages of metrics, by a cursor that stays right while the file grows and is rewound."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from api.schemas import MetricsPage, MetricsQuery
from api.server.runs.metric_pages import page_of
from monitoring.storage.base import Storage
from monitoring.storage.open import open_storage

RUN = "run"


class CountingStorage:
    """A storage that counts the bytes that are read."""

    def __init__(self, root: Path) -> None:
        self._storage = open_storage(root.as_uri())
        self.bytes = 0
        self.file = root / RUN / "logs" / "metrics.jsonl"
        self.file.parent.mkdir(parents=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def read(self, key: str, start: int = 0, size: int = -1) -> bytes:
        data = self._storage.read(key, start, size)
        self.bytes += len(data)
        return data

    def page(self, **query: Any) -> MetricsPage:
        return page_of(cast(Storage, self), RUN, MetricsQuery(**query))

    def pages(self, **query: Any) -> Iterator[MetricsPage]:
        """Pages by their cursor, until one is empty."""
        while True:
            page = self.page(**query)
            yield page
            if not page.rows:
                return
            query["cursor"] = page.cursor


@pytest.fixture
def storage(tmp_path: Path) -> CountingStorage:
    return CountingStorage(tmp_path)


def lines(steps: Iterable[int], mark: str = "a") -> str:
    return "".join(json.dumps({"step": step, "mark": mark * (step % 7)}) + "\n" for step in steps)


def steps_of(pages: Iterable[MetricsPage]) -> list[int]:
    return [row["step"] for page in pages for row in page.rows]


def test_pages_by_their_cursor_hold_every_row_once(storage: CountingStorage) -> None:
    text = lines(range(20)) + "no row\n\n" + lines(range(20, 30))
    storage.file.write_text(text + '{"step": 30')
    pages = list(storage.pages(limit=7))
    assert steps_of(pages) == [*range(30)]
    assert [page.after_step for page in pages][:2] == [6, 13]
    storage.file.write_text(text + lines([30, 31]))
    later = storage.pages(cursor=pages[-1].cursor)
    assert steps_of(later) == [30, 31], "rows that came since"
    assert steps_of(storage.pages(cursor=pages[0].cursor, after_step=20)) == [*range(21, 32)]


def test_before_the_first_row_there_is_no_cursor(storage: CountingStorage) -> None:
    assert storage.page() == MetricsPage(rows=[], cursor=None, after_step=None)
    storage.file.write_text("")
    assert storage.page() == MetricsPage(rows=[], cursor=None, after_step=None)


@pytest.mark.parametrize("again", [range(10, 12), range(10, 25), range(10, 40)])
def test_a_cursor_to_a_row_that_an_attempt_has_replaced_continues_with_later_steps(
    storage: CountingStorage, again: range
) -> None:
    """The file is shorter than the cursor, about as long, and longer."""
    storage.file.write_text(lines(range(20)))
    *_, last = storage.pages(limit=7)
    storage.file.write_text(lines(range(10)) + lines(again, "bb"))
    assert steps_of(storage.pages(cursor=last.cursor)) == [step for step in again if step > 19]
    assert steps_of([storage.page(cursor="123456789-4", limit=2)]) == [5, 6]


def test_a_page_at_the_end_of_the_file_reads_no_more_than_one_at_its_beginning(
    storage: CountingStorage,
) -> None:
    storage.file.write_text(lines(range(100_000)))
    page = storage.page(after_step=99_000, limit=10)
    storage.bytes = 0
    assert steps_of([storage.page(cursor=page.cursor, limit=10)]) == [*range(99_011, 99_021)]
    assert storage.bytes <= 1 << 20


def test_a_program_that_logs_nothing_has_the_rows_that_the_service_read(
    storage: CountingStorage,
) -> None:
    read = storage.file.with_name("metrics.read.jsonl")
    read.write_text(lines(range(3)))
    assert [row["step"] for row in storage.page().rows] == [0, 1, 2]
    storage.file.write_text("not a row\n")  # a file of the program's own
    assert [row["step"] for row in storage.page().rows] == [0, 1, 2]
    page = storage.page(limit=2)
    storage.file.write_text(lines(range(1, 9)))  # now it does
    assert steps_of([storage.page(cursor=page.cursor)]) == list(range(2, 9))
