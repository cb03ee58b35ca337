"""The rows that the service reads of a run, kept in storage of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitoring.storage.base import Fence, OvertakenError, Storage, StorageError
from monitoring.storage.open import open_storage
from worker.files.logs.row_file import RowFile
from worker.files.pace import Pace
from worker.files.scratch import Scratch

KEY = "job/logs/metrics.read.jsonl"


@pytest.fixture(params=["directory", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "bucket":
        return open_storage(request.getfixturevalue("s3_url"))
    return open_storage((tmp_path / "storage").as_uri())


def opened(storage: Storage, root: Path, attempt: int, place: str = "") -> RowFile:
    scratch = Scratch(root, "job", attempt, place)
    scratch.root.mkdir(parents=True)
    fence = Fence("job", attempt)
    storage.seize(fence)
    pace = Pace(appends_in_place=storage.appends_in_place)
    return RowFile(storage, scratch.rows, Path("logs/metrics.read.jsonl"), fence, pace)


def test_rows_are_added_replaced_and_found_by_the_next_attempt(
    storage: Storage, tmp_path: Path
) -> None:
    first = opened(storage, tmp_path, 1)
    first.publish()
    assert storage.stat(KEY) is None
    first.append(b"1\n")
    first.publish(closing=True)
    first.append(b"2\n3\n")
    first.publish(closing=True)
    assert storage.read(KEY) == b"1\n2\n3\n"
    first.replace(b"1\n")
    first.append(b"4\n")
    first.publish(closing=True)
    assert storage.read(KEY) == first.read() == b"1\n4\n"
    second = opened(storage, tmp_path, 2)
    second.publish()
    second.append(b"5\n")
    second.publish(closing=True)
    assert storage.read(KEY) == b"1\n4\n5\n"
    first.append(b"6\n")
    with pytest.raises(OvertakenError):
        first.publish(closing=True)


def test_an_overtaken_attempt_that_wakes_up_in_its_place_changes_no_rows_of_the_next(
    storage: Storage, tmp_path: Path
) -> None:
    first = opened(storage, tmp_path, 1)
    first.publish()
    first.append(b"1\n")
    first.publish(closing=True)
    first_folder = tmp_path / "job" / "1"
    first_folder.rename(tmp_path / "aside")
    second = opened(storage, tmp_path, 2, place="1")
    second.publish()
    second.append(b"a longer row\n")
    first.append(b"2\n")
    first.replace(b"3\n")
    second.publish(closing=True)
    second.append(b"4\n")
    second.publish(closing=True)
    assert storage.read(KEY) == b"1\na longer row\n4\n"


def test_rows_that_somebody_cut_off_in_storage_are_sent_again(
    storage: Storage, tmp_path: Path
) -> None:
    file = opened(storage, tmp_path, 1)
    file.publish()
    file.append(b"1\n2\n")
    file.publish(closing=True)
    storage.append(KEY, 0, b"1\n")
    file.append(b"3\n")
    with pytest.raises(StorageError, match="cannot append"):
        file.publish(closing=True)
    file.publish(closing=True)
    assert storage.read(KEY) == b"1\n2\n3\n"


def test_who_reads_while_rows_are_replaced_sees_them_whole(tmp_path: Path) -> None:
    storage = open_storage((tmp_path / "storage").as_uri())
    file = opened(storage, tmp_path, 1)
    file.publish()
    file.append(b"1\n2\n")
    file.publish()
    place = storage.local_path(KEY)
    assert place is not None
    with place.open("rb") as reader:
        file.replace(b"1\n")
        file.publish()
        assert reader.read() == b"1\n2\n"
    assert storage.read(KEY) == b"1\n"


def test_half_a_row_of_a_machine_that_failed_is_written_over(
    storage: Storage, tmp_path: Path
) -> None:
    first = opened(storage, tmp_path, 1)
    first.publish()
    first.append(b'{"step": 1}\n{"st')
    first.publish(closing=True)
    second = opened(storage, tmp_path, 2)
    second.publish()
    second.append(b'{"step": 2}\n')
    second.publish(closing=True)
    assert storage.read(KEY) == b'{"step": 1}\n{"step": 2}\n'
