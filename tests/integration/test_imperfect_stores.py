"""Object stores that lack something: every operation works, and what is missing is said once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from monitoring.storage.base import Fence, OvertakenError, StorageError
from monitoring.storage.lacks import Lack
from monitoring.storage.open import open_storage
from monitoring.storage.s3 import lacks as s3_lacks
from monitoring.storage.s3 import resend
from monitoring.storage.s3.storage import S3Storage
from monitoring.storage.trial import try_out
from tests.integration.imperfect_s3 import (
    EqualParts,
    Imperfect,
    NoPartConditions,
    NoPartCopies,
    Old,
    in_front_of,
)
from worker.files.look import Seen
from worker.files.mirror.contents import Contents
from worker.files.pace import Pace

FIRST, SECOND = Fence("run", 1), Fence("run", 2)
MB = 1 << 20

Open = Callable[[Imperfect], S3Storage]

KINDS: list[tuple[type[Imperfect], set[Lack]]] = [
    (Imperfect, set()),
    (EqualParts, set()),
    (NoPartCopies, {s3_lacks.PART_COPIES}),
    (NoPartConditions, {s3_lacks.PART_CONDITIONS}),
    (Old, {s3_lacks.CONDITIONS, s3_lacks.PART_CONDITIONS, s3_lacks.COPIES, s3_lacks.PART_COPIES,
           s3_lacks.SEVERAL_DELETIONS}),
]  # fmt: skip


@pytest.fixture
def opened(s3_url: str, s3_server: str) -> Iterator[Open]:
    """Opens a store of a kind."""
    with ExitStack() as stack:

        def open_(kind: Imperfect) -> S3Storage:
            storage = open_storage(s3_url, stack.enter_context(in_front_of(s3_server, kind)))
            assert isinstance(storage, S3Storage)
            return storage

        yield open_


def file_of(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("kind", "lacks"), KINDS)
def test_a_trial_finds_out_what_a_store_lacks_and_leaves_nothing(
    kind: type[Imperfect], lacks: set[Lack], opened: Open
) -> None:
    storage = opened(kind())
    try_out(storage, "trial")
    assert set(storage.lacks.sentences()) == {str(lack) for lack in lacks}
    assert (storage.list("trial"), storage.runs()) == ([], [])


@pytest.mark.parametrize(("kind", "lacks"), KINDS)
def test_a_run_in_a_store_that_lacks_something_needs_no_trial(
    kind: type[Imperfect], lacks: set[Lack], opened: Open, tmp_path: Path
) -> None:
    storage, newer = opened(kind()), opened(kind())
    storage.seize(FIRST)
    large = file_of(tmp_path / "large", b"l" * 17 * MB)
    for _ in range(2):
        storage.put("run/large", large, FIRST)
        storage.put("run/small", file_of(tmp_path / "small", b"small"), FIRST)
    storage.keep_all({"run/large": "run/.contents/1", "run/small": "run/.contents/2"}, FIRST)
    expected = b""
    sizes = [3 * MB, 3 * MB, 10, 7, 8 * MB, 0, 5 * MB + 1]
    for number, size in enumerate(sizes):
        data = bytes([65 + number]) * size
        storage.append("run/log", len(expected), data, FIRST)
        expected += data
    storage.append("run/log", 6 * MB, b"shorter", FIRST)
    expected = expected[: 6 * MB] + b"shorter"
    storage.point("run/latest", "small", FIRST)
    assert storage.read("run/log") == expected
    for key in ("run/large", "run/.contents/1"):
        storage.get(key, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == large.read_bytes()
    assert storage.read("run/.contents/2") == storage.read("run/latest") == b"small"
    newer.seize(SECOND)
    for write in (
        lambda: storage.put("run/large", large, FIRST),
        lambda: storage.append("run/log", len(expected), b"late", FIRST),
        lambda: storage.delete("run/small", FIRST),
    ):
        with pytest.raises(OvertakenError):
            write()
    assert storage.read("run/log") == expected
    newer.delete_run("run")
    assert storage.list("run") == []
    found = set(storage.lacks.sentences()) | set(newer.lacks.sentences())
    assert found == {str(lack) for lack in lacks}


def test_what_a_store_lacks_is_asked_for_once(opened: Open, tmp_path: Path) -> None:
    kind = Old()
    storage = opened(kind)
    refused = []
    storage.append("run/log", 0, b"x" * 6 * MB, FIRST)
    for number in range(3):
        storage.put(f"run/{number}", file_of(tmp_path / "a", b"data"), FIRST)
        storage.put(f"run/large-{number}", file_of(tmp_path / "b", b"b" * 9 * MB), FIRST)
        storage.keep(f"run/{number}", f"run/.contents/{number}", FIRST)
        storage.append("run/log", 6 * MB + number, b"y", FIRST)
        refused.append(kind.refused.total())
    assert refused[0] == refused[-1], kind.refused


def test_a_refusal_that_has_another_reason_is_no_lack(opened: Open, tmp_path: Path) -> None:
    class Broken(Imperfect):
        def refusal(self, operation: str, headers: object, query: object) -> tuple[int, str] | None:
            return (400, "InvalidRequest") if operation == "PutObject" else None

    storage = opened(Broken())
    with pytest.raises(StorageError, match="InvalidRequest"):
        storage.put("run/a", file_of(tmp_path / "a", b"data"), FIRST)
    assert storage.lacks.sentences() == []


def test_an_addition_without_copies_of_parts_fetches_the_file_once(opened: Open) -> None:
    kind = NoPartCopies()
    storage = opened(kind)
    storage.append("run/log", 0, b"x" * 6 * MB, FIRST)
    kind.bytes_sent = kind.bytes_fetched = 0
    for number in range(4):
        storage.append("run/log", 6 * MB + number * 1000, b"y" * 1000, FIRST)
    assert 6 * MB <= kind.bytes_fetched < 6.1 * MB
    assert kind.bytes_sent < 4 * 6.1 * MB
    assert storage.read("run/log") == b"x" * 6 * MB + b"y" * 4000


def test_what_another_process_wrote_meanwhile_is_added_to(opened: Open, tmp_path: Path) -> None:
    storage, other = opened(NoPartCopies()), opened(NoPartCopies())
    storage.append("run/log", 0, b"x" * 6 * MB, FIRST)
    storage.append("run/log", 6 * MB, b"y", FIRST)
    other.put("run/log", file_of(tmp_path / "log", b"z" * 7 * MB), FIRST)
    storage.append("run/log", 6 * MB, b"!", FIRST)
    assert storage.read("run/log") == b"z" * 6 * MB + b"!"


def test_a_file_too_large_to_be_sent_for_each_addition_is_mirrored_as_a_whole(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resend, "MOST_RESENT", 7 * MB)
    storage = opened(NoPartCopies())
    storage.append("run/log", 0, b"x" * 6 * MB, FIRST)
    with pytest.raises(StorageError, match=r"cannot copy parts \(UploadPartCopy\)"):
        storage.append("run/log", 6 * MB, b"x" * 2 * MB, FIRST)
    contents = Contents(storage, tmp_path, FIRST, Pace(appends_in_place=False))
    path = file_of(tmp_path / "rows.csv", b"x" * 6 * MB)
    for _ in range(5):
        with path.open("ab") as file:
            file.write(b"y" * MB)
        contents.store("rows.csv", Seen.of(path) or Seen("file"))
        assert storage.read("run/rows.csv") == path.read_bytes()
