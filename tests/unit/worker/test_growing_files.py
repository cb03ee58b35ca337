"""Files that grow, in stores that append, that do not, and that refuse to."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitoring.storage.base import Fence, StorageError
from monitoring.storage.directory import FileStorage
from monitoring.storage.run_files import RunFiles
from tests.unit.worker.test_publish import Attempt


@pytest.fixture
def first(tmp_path: Path) -> Attempt:
    return Attempt(tmp_path, 1)


def stream(attempt: Attempt) -> Path:
    return attempt.run.root / "work" / "stream.log"


def grow(attempt: Attempt, text: str) -> None:
    with stream(attempt).open("a") as file:
        file.write(text)


def test_a_store_that_refuses_to_append_stops_no_checkpoint_and_gets_the_whole_file(
    first: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = FileStorage.append

    def refuse(
        self: FileStorage, key: str, offset: int, data: bytes, fence: Fence | None = None
    ) -> None:
        if key.endswith("stream.log") and offset > 0:
            raise StorageError("this store appends nothing")
        append(self, key, offset, data, fence)

    monkeypatch.setattr(FileStorage, "append", refuse)
    grow(first, "one\n")
    first.publish()
    for number in range(12):
        grow(first, f"{number}\n")
        first.log(number)
        first.save(number)
        first.publisher.publish()
        assert first.publisher.checkpoint is not None
        assert first.publisher.checkpoint.step == number
    first.publish()
    first.publisher.close("ended")
    first.publisher.publish()
    assert (first.stored.root / "work/stream.log").read_bytes() == stream(first).read_bytes()


def test_new_bytes_wait_in_a_store_that_cannot_append_until_anything_else_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileStorage, "appends_in_place", False)
    first = Attempt(tmp_path, 1)
    grow(first, "x" * 100_000)
    first.publish()
    stored = first.stored.root / "work/stream.log"
    assert stored.stat().st_size == 100_000
    monkeypatch.setattr("worker.files.pace._BYTES_PER_SECOND", 1)  # due in a day, or when followed
    monkeypatch.setattr("worker.files.pace._MAX_SECONDS", 1e5)
    grow(first, "y")
    first.publish()
    assert stored.stat().st_size == 100_000
    first.publisher.note_followed(True)
    first.publish()
    assert stored.stat().st_size == 100_001
    first.publisher.note_followed(False)
    grow(first, "z")
    first.log(10)
    first.save(10)
    first.publish()
    assert stored.stat().st_size == 100_002, "a moment has all that was there"
    assert "checkpoints/checkpoint_step_10.pt" in RunFiles(first.storage, "job").all()
    grow(first, "!")
    first.publisher.close("ended")
    first.publisher.publish()
    assert stored.stat().st_size == 100_003
