"""What grows is sent at a pace that an object store can bear."""

from __future__ import annotations

import time

import pytest

from worker.files.pace import Pace

MIB = 1 << 20


def test_a_store_that_appends_gets_new_bytes_at_once() -> None:
    assert Pace(appends_in_place=True).is_due(100 * MIB, 100 * MIB + 1, time.monotonic())


def test_a_minute_of_a_mebibyte_per_second_costs_little_more_than_its_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store that cannot append gets an object below 5 MiB whole, and the new bytes of others."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace(appends_in_place=False)
    stored, sent, sent_at, traffic = 0, 0, 0.0, 0
    for second in range(1, 61):
        now, size = float(second), second * MIB
        if pace.is_due(stored, size, sent_at) or second == 60:
            traffic += size if stored < 5 * MIB else size - stored
            stored, sent_at, sent = size, now, sent + 1
    assert stored == 60 * MIB
    assert traffic <= 1.2 * stored
    assert sent < 20


def test_a_large_file_that_grows_slowly_is_sent_at_last_and_to_a_reader_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace(appends_in_place=False)
    assert not pace.is_due(10_000 * MIB, 10_000 * MIB + 1, 0.0)
    pace.is_followed = True
    assert pace.is_due(10_000 * MIB, 10_000 * MIB + 1, 0.0)
    pace.is_followed = False
    now = 300.0
    assert pace.is_due(10_000 * MIB, 10_000 * MIB + 1, 0.0)
