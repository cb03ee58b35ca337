"""What a directory and an object store promise alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitoring.checkpoints import commit
from monitoring.storage.base import Fence, OvertakenError, Storage, StorageError
from monitoring.storage.open import open_storage

FIRST, SECOND = Fence("run", 1), Fence("run", 2)
MB = 1 << 20


@pytest.fixture
def s3_server(request: pytest.FixtureRequest, url_kind: str) -> str:
    return str(request.getfixturevalue(url_kind))


@pytest.fixture(params=["file", "moto_server", "seaweedfs_server"])
def url_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, url_kind: str, tmp_path: Path) -> str:
    if url_kind == "file":
        return (tmp_path / "store").as_uri()
    return str(request.getfixturevalue("s3_url"))


@pytest.fixture
def storage(url: str) -> Storage:
    return open_storage(url)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"data")
    return path


def test_what_is_put_comes_back(storage: Storage, source: Path, tmp_path: Path) -> None:
    storage.put("run/a/b", source, FIRST)
    storage.get("run/a/b", tmp_path / "back" / "b")
    assert (tmp_path / "back" / "b").read_bytes() == b"data"
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["b"]
    assert storage.read("run/a/b", 1, 2) == b"at"
    assert [(f.key, f.size) for f in storage.list("run")] == [("run/a/b", 4)]
    storage.delete("run/a/b", FIRST)
    storage.delete("run/a/b", FIRST)
    assert storage.stat("run/a/b") is None
    storage.delete_run("run")
    storage.delete_run("run")
    assert storage.list("run") == []


def test_a_file_may_be_replaced_by_whoever_has_the_run(
    url: str, storage: Storage, source: Path
) -> None:
    storage.put("run/a", source, FIRST)
    source.write_bytes(b"newer")
    storage.put("run/a", source, FIRST)
    other = open_storage(url)
    other.seize(SECOND)
    source.write_bytes(b"newest")
    other.put("run/a", source, SECOND)
    assert storage.read("run/a") == b"newest"


@pytest.mark.parametrize(
    ("start", "size", "bytes_"),
    [(0, -1, b"data"), (2, -1, b"ta"), (1, 2, b"at"), (2, 9, b"ta"), (4, 9, b""), (9, -1, b""),
     (1, 0, b"")],
)  # fmt: skip
def test_a_range_ends_where_the_file_does(
    storage: Storage, source: Path, start: int, size: int, bytes_: bytes
) -> None:
    storage.put("run/a", source)
    assert storage.read("run/a", start, size) == bytes_


def test_what_is_not_there_is_said_to_be_missing(storage: Storage, tmp_path: Path) -> None:
    assert storage.stat("run/a") is None
    assert storage.list("run") == []
    assert storage.links("run") == {}
    storage.delete("run/a", FIRST)
    for size in (-1, 0, 3):
        with pytest.raises(FileNotFoundError):
            storage.read("run/a", 0, size)
    with pytest.raises(FileNotFoundError):
        storage.get("run/a", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_every_write_of_an_overtaken_attempt_is_refused(
    url: str, storage: Storage, source: Path
) -> None:
    storage.put("run/a", source, FIRST)
    open_storage(url).seize(SECOND)
    for write in (
        lambda: storage.put("run/a", source, FIRST),
        lambda: storage.append("run/a", 4, b"!", FIRST),
        lambda: storage.point("run/latest", "a", FIRST),
        lambda: storage.delete("run/a", FIRST),
        lambda: storage.seize(FIRST),
    ):
        with pytest.raises(OvertakenError, match="attempt 1 of run has been overtaken"):
            write()
    assert storage.read("run/a") == b"data"
    assert [file.key for file in storage.list("run")] == ["run/a"]
    storage.put("other/a", source, Fence("other", 1))


def test_who_wakes_up_after_the_run_was_deleted_leaves_nothing_of_it(
    url: str, storage: Storage, source: Path, tmp_path: Path
) -> None:
    storage.seize(FIRST)
    storage.put("run/a", source, FIRST)
    open_storage(url).delete_run("run")
    for write in (
        lambda: storage.put("run/a", source, FIRST),
        lambda: storage.append("run/b", 0, b"!", FIRST),
        lambda: storage.point("run/latest", "a", FIRST),
        lambda: storage.delete("run/a", FIRST),
    ):
        with pytest.raises(OvertakenError, match="overtaken by a deletion"):
            write()
    assert storage.list("run") == []
    assert not (tmp_path / "store" / "run").exists()


def test_appending_the_same_bytes_twice_leaves_them_once(storage: Storage) -> None:
    storage.append("run/log", 0, b"one\n", FIRST)
    storage.append("run/log", 4, b"two\n", FIRST)
    storage.append("run/log", 4, b"two\n", FIRST)
    assert storage.read("run/log") == b"one\ntwo\n"
    with pytest.raises(StorageError, match="cannot append at 100"):
        storage.append("run/log", 100, b"x", FIRST)
    with pytest.raises(StorageError, match="has 0 bytes; cannot append at 3"):
        storage.append("run/none", 3, b"x", FIRST)


def test_a_file_grows_past_every_limit_and_readers_see_one_file(
    url: str, storage: Storage, tmp_path: Path
) -> None:
    expected = b""
    appends = [(0, 3 * MB), (3 * MB, 3 * MB), (6 * MB, 10), (6 * MB + 10, 7), (6 * MB, 5),
               (4 * MB, 1), (4 * MB + 1, 2 * MB), (6 * MB + 1, 9)]  # fmt: skip
    for number, (offset, size) in enumerate(appends):
        data = bytes([65 + number]) * size
        expected = expected[:offset] + data
        storage.append("run/log", offset, data, FIRST)
        found = open_storage(url).stat("run/log")
        assert found is not None
        assert found.size == len(expected)
        assert storage.read("run/log", offset) == data
    with pytest.raises(StorageError, match="cannot append at"):
        storage.append("run/log", len(expected) + 1, b"x", FIRST)
    storage.get("run/log", tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == expected
    assert [(file.key, file.size) for file in storage.list("run")] == [("run/log", len(expected))]


def test_a_file_that_was_replaced_is_appended_to_as_it_is_now(
    storage: Storage, source: Path
) -> None:
    storage.append("run/log", 0, b"0\n1\n2\n", FIRST)
    storage.put("run/log", source, FIRST)
    storage.append("run/log", 4, b"!", FIRST)
    assert storage.read("run/log") == b"data!"
    storage.delete("run/log", FIRST)
    storage.append("run/log", 0, b"new", FIRST)
    storage.append("run/log", 3, b"er", FIRST)
    assert storage.read("run/log") == b"newer"


@pytest.mark.parametrize("size", [10, 6 * MB])
def test_the_next_attempt_goes_on_appending_where_it_finds_the_end(
    url: str, storage: Storage, size: int
) -> None:
    storage.append("run/log", 0, b"x" * size, FIRST)
    second = open_storage(url)
    second.seize(SECOND)
    second.append("run/log", size, b"second", SECOND)
    second.append("run/log", size, b"2nd", SECOND)
    assert second.read("run/log", size - 1) == b"x2nd"


def test_a_put_that_fails_leaves_what_was_there(storage: Storage, source: Path) -> None:
    storage.put("run/a", source, FIRST)
    with pytest.raises(FileNotFoundError):
        storage.put("run/a", source.with_name("none"), FIRST)
    assert storage.read("run/a") == b"data"


def test_a_file_is_fetched_with_its_checksum(
    storage: Storage, source: Path, tmp_path: Path
) -> None:
    source.write_bytes(bytes(range(256)) * 4096 * 40 + b"and some")  # three ranges
    storage.put("run/a", source)
    checksum = storage.get("run/a", tmp_path / "back")
    assert checksum == commit.checksum(source, "crc32")
    assert commit.checksum(tmp_path / "back", "crc32") == checksum


def test_a_fetch_that_nobody_wants_any_more_ends_and_leaves_nothing(
    storage: Storage, source: Path, tmp_path: Path
) -> None:
    source.write_bytes(b"x" * 40 * MB)
    storage.put("run/a", source)
    blocks = []

    def enough() -> None:
        blocks.append(1)
        if len(blocks) >= 3:
            raise KeyboardInterrupt

    target = tmp_path / "back" / "a"
    with pytest.raises(KeyboardInterrupt):
        storage.get("run/a", target, on_block=enough)
    assert len(blocks) < 20
    assert list(target.parent.iterdir()) == []


def test_a_link_follows_its_newest_target(storage: Storage, source: Path, tmp_path: Path) -> None:
    storage.put("run/x/a b ∿", source, FIRST)
    storage.point("run/x/latest", "old", FIRST)
    with pytest.raises(FileNotFoundError):
        storage.read("run/x/latest")
    storage.point("run/x/latest", "a b ∿", FIRST)
    assert storage.read("run/x/latest") == b"data"
    assert storage.read("run/x/latest", 1, 2) == b"at"
    storage.get("run/x/latest", tmp_path / "latest")
    assert (tmp_path / "latest").read_bytes() == b"data"
    found = storage.stat("run/x/latest")
    assert found is not None
    assert (found.key, found.size) == ("run/x/latest", 4)
    assert storage.links("run") == {"run/x/latest": "a b ∿"}
    assert [file.key for file in storage.list("run")] == ["run/x/a b ∿"]


def test_a_list_has_all_files_of_a_folder_by_key_and_none_of_its_neighbours(
    storage: Storage, source: Path
) -> None:
    source.write_bytes(b"")
    keys = sorted(f"run/{folder}/{n}" for folder in ("a", "b") for n in range(12))
    for key in (*keys, "run-2/a/1"):
        storage.put(key, source)
    assert [file.key for file in storage.list("run")] == keys
    assert [file.key for file in storage.list("run/b")] == keys[12:]
    storage.delete_run("run")
    assert storage.list("run") == []
    assert len(storage.list("run-2")) == 1


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "run/../../x", "run/\0"])
def test_keys_stay_below_the_root(storage: Storage, key: str) -> None:
    with pytest.raises(StorageError, match="is not a valid key"):
        storage.stat(key)
