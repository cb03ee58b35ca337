"""Thousands of small files neither hold up a checkpoint nor cost a round trip each."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monitoring.storage.directory import FileStorage
from monitoring.storage.run_files import RunFiles
from tests.unit.worker.test_publish import Attempt
from worker.files.look import Look
from worker.files.mirror import mirror, sender, settle


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    monkeypatch.setattr(mirror, "_SENDING_SECONDS", 0.0)
    monkeypatch.setattr(sender, "_BATCH_FILES", 10)
    monkeypatch.setattr(sender, "_BATCH_SECONDS", math.inf)  # however slow this machine is
    monkeypatch.setattr(settle, "FILLING_SECONDS", 0.0)
    return Attempt(tmp_path, 1)


def stored(attempt: Attempt) -> set[str]:
    return set(RunFiles(attempt.storage, "job").all())


def write(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / str(number)).write_text(str(number))


def test_a_checkpoint_is_committed_while_files_are_still_to_be_sent(first: Attempt) -> None:
    first.publish()
    write(first.run.root / "work/many", 100)
    for _ in range(3):
        first.publisher.publish()
    first.log(10)
    first.save(10)
    first.publisher.publish()
    assert "checkpoints/checkpoint_step_10.pt" in stored(first)
    assert "logs/metrics.jsonl" in stored(first)
    assert "work/many/1" not in stored(first), "the folder counts as a whole"
    for _ in range(10):
        first.publisher.publish()
    assert {f"work/many/{number}" for number in range(100)} <= stored(first)


def test_files_that_a_program_removes_while_they_are_sent_stay_nowhere(first: Attempt) -> None:
    first.publish()
    write(first.run.root / "work/many", 100)
    for _ in range(3):
        first.publisher.publish()
    sent = first.stored.root / "work/many"
    assert len(list(sent.iterdir())) >= 10
    shutil.rmtree(first.run.root / "work/many")
    first.log(10)
    for _ in range(3):
        first.publisher.publish()
    assert [path for path in first.stored.root.rglob("*") if path.name.isdigit()] == []
    assert not list((first.stored.root / ".contents").glob("*"))


def test_a_new_checkpoint_waits_for_one_batch_of_other_files(
    first: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_SENDING_SECONDS", 3600.0)
    first.publish()
    write(first.run.root / "work/many", 100)
    first.publisher.publish()
    first.save(10)
    first.publisher.publish()
    assert first.publisher.checkpoint is not None
    assert len(list((first.stored.root / "work/many").iterdir())) == 10
    first.publisher.publish()
    assert {f"work/many/{number}" for number in range(100)} <= stored(first)


def test_another_folder_counts_once_it_is_sent(
    first: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_BEHIND_SECONDS", 0.0)
    first.publish()
    write(first.run.root / "work/many", 100)
    write(first.run.root / "work/zoo", 2)
    first.publish()
    assert {"work/zoo/0", "work/zoo/1"} <= stored(first), "the folder with few files goes first"
    assert "work/many/1" not in stored(first)


@pytest.mark.parametrize("folder", ["work/many", "checkpoints/step_7.zarr"])
def test_files_are_stored_and_replaced_many_at_a_time(
    first: Attempt, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    batches: list[int] = []
    put_all, keep_all = FileStorage.put_all, FileStorage.keep_all

    def count_puts(self: FileStorage, files: dict[str, Path], *args: object) -> None:
        batches.append(len(files))
        put_all(self, files, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(sender, "_BATCH_FILES", 60)
    monkeypatch.setattr(mirror, "_SENDING_SECONDS", 60.0)
    monkeypatch.setattr(FileStorage, "put_all", count_puts)
    kept: list[int] = []
    monkeypatch.setattr(
        FileStorage,
        "keep_all",
        lambda self, places, *a: (kept.append(len(places)), keep_all(self, places, *a)),
    )
    write(first.run.root / folder, 100)
    first.publish()
    assert batches == [60, 40]
    for number in range(100):
        (first.run.root / f"{folder}/{number}").write_text(f"again {number}")
    first.publish()
    assert batches == [60, 40] * 2
    assert sum(kept) == 100, "the contents before are kept for the moment before"
    assert (first.stored.root / f"{folder}/7").read_text() == "again 7"


def test_a_slow_store_gets_fewer_files_at_a_time(
    first: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint waits for the batch that is being sent."""
    batches: list[int] = []
    put_all = FileStorage.put_all
    now = 0.0

    def put_slowly(self: FileStorage, files: dict[str, Path], *args: object) -> None:
        nonlocal now
        batches.append(len(files))
        now += 0.01 * len(files)
        put_all(self, files, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(sender, "_BATCH_FILES", 100)
    monkeypatch.setattr(sender, "_BATCH_SECONDS", 0.25)
    monkeypatch.setattr(mirror, "_SENDING_SECONDS", 60.0)
    monkeypatch.setattr(FileStorage, "put_all", put_slowly)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    first.publish()
    write(first.run.root / "work/many", 300)
    for _ in range(3):
        now += 1
        first.publisher.publish()
    assert batches[:3] == [100, 25, 25], "a hundred a second, for a quarter of one"
    assert sum(batches) == 300


def test_a_batch_with_a_file_that_cannot_be_stored_costs_that_file_only(
    first: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_all, put = FileStorage.put_all, FileStorage.put

    def refuse_all(self: FileStorage, files: dict[str, Path], *args: object) -> None:
        if any(key.endswith("/7") for key in files):
            raise OSError("no 7 here")
        put_all(self, files, *args)  # type: ignore[arg-type]

    def refuse(self: FileStorage, key: str, *args: object, **options: bool) -> None:
        if key.endswith("/7"):
            raise OSError("no 7 here")
        put(self, key, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FileStorage, "put_all", refuse_all)
    monkeypatch.setattr(FileStorage, "put", refuse)
    monkeypatch.setattr(mirror, "_SENDING_SECONDS", 60.0)
    write(first.run.root / "work/many", 20)
    first.publish()
    assert {f"work/many/{number}" for number in range(20) if number != 7} <= stored(first)
    assert first.publisher.refused == {Path("work/many/7"): "no 7 here"}
    monkeypatch.setattr(FileStorage, "put_all", put_all)
    monkeypatch.setattr(FileStorage, "put", put)
    first.publisher.publish()
    assert "work/many/7" in stored(first), "it is offered again"


def test_looks_at_very_many_files_are_far_between(
    first: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    used = iter(range(0, 1000, 2))
    monkeypatch.setattr(time, "thread_time", lambda: next(used))
    look = mirror.Mirror.look

    def count(self: mirror.Mirror) -> Look:
        looks.append(1)
        return look(self)

    monkeypatch.setattr(mirror.Mirror, "look", count)
    for _ in range(5):
        first.publisher.publish()
    assert len(looks) == 1, "a look of two seconds is followed by ten without one"
    first.prints("a line\n")
    first.publisher.publish()
    assert first.stored.output_log.read_text() == "[1] a line\n", "the log waits for no look"
    first.publisher.close("ended")
    first.publisher.publish()
    assert len(looks) == 2, "the last look waits for nothing"


def test_a_pass_over_a_quiet_run_asks_storage_for_nothing(
    first: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one each second: it must not take the lock of the run, nor make a request."""
    monkeypatch.setattr(mirror, "_SENDING_SECONDS", 60.0)
    write(first.run.root / "work/many", 20)
    for _ in range(3):
        first.publish()
    called: list[str] = []

    def spy(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            called.append(name)
            return operation(*args, **options)

        return call

    for name, operation in vars(FileStorage).items():
        if callable(operation) and not name.startswith("__"):
            monkeypatch.setattr(FileStorage, name, spy(name, operation))
    first.publish()
    assert called == []
    write(first.run.root / "work/more", 1)
    first.publish()
    assert "put_all" in called
