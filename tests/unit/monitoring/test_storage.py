"""A directory that keeps runs, and who may write to them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from monitoring import storage as storage_module
from monitoring.storage import Fence, FileStorage, OvertakenError, StorageError, open_storage

FIRST, SECOND = Fence("run", 1), Fence("run", 2)


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"data")
    return path


def test_what_is_put_comes_back(storage: FileStorage, source: Path, tmp_path: Path) -> None:
    storage.put("run/a/b", source, FIRST)
    storage.get("run/a/b", tmp_path / "back" / "b")
    assert (tmp_path / "back" / "b").read_bytes() == b"data"
    assert storage.read("run/a/b", 1, 2) == b"at"
    assert [(f.key, f.size) for f in storage.list("run")] == [("run/a/b", 4)]
    storage.delete("run/a/b", FIRST)
    storage.delete("run/a/b", FIRST)
    assert storage.stat("run/a/b") is None
    storage.delete_run("run")
    storage.delete_run("run")
    assert not (storage.root / "run").exists()


def test_every_write_of_an_overtaken_attempt_is_refused(storage: FileStorage, source: Path) -> None:
    storage.put("run/a", source, FIRST)
    storage.seize(SECOND)
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


def test_appending_the_same_bytes_twice_leaves_them_once(storage: FileStorage) -> None:
    storage.append("run/log", 0, b"one\n", FIRST)
    storage.append("run/log", 4, b"two\n", FIRST)
    storage.append("run/log", 4, b"two\n", FIRST)
    assert storage.read("run/log") == b"one\ntwo\n"
    with pytest.raises(StorageError, match="cannot append at 100"):
        storage.append("run/log", 100, b"x", FIRST)


def test_an_immutable_file_is_linked_and_another_is_copied(
    storage: FileStorage, source: Path
) -> None:
    storage.put("run/linked", source, FIRST, immutable=True)
    storage.put("run/copied", source, FIRST)
    assert (storage.root / "run/linked").stat().st_ino == source.stat().st_ino
    assert (storage.root / "run/copied").stat().st_ino != source.stat().st_ino


def test_a_put_that_fails_leaves_what_was_there_and_no_temporary_file(
    storage: FileStorage, source: Path
) -> None:
    storage.put("run/a", source, FIRST)
    with pytest.raises(FileNotFoundError):
        storage.put("run/a", source.with_name("none"), FIRST)
    assert storage.read("run/a") == b"data"
    assert {p.name for p in (storage.root / "run").iterdir()} == {".fence", "a"}


def test_a_link_follows_its_newest_target(storage: FileStorage, source: Path) -> None:
    storage.put("run/a", source, FIRST)
    storage.point("run/latest", "old", FIRST)
    storage.point("run/latest", "a", FIRST)
    assert storage.read("run/latest") == b"data"
    assert [file.key for file in storage.list("run")] == ["run/a"]


def test_a_stopped_holder_of_the_lock_does_not_stop_others_for_ever(
    storage: FileStorage, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.seize(FIRST)
    monkeypatch.setattr(storage_module, "_LOCK_SECONDS", 0.05)
    holder = os.open(storage.root / "run" / ".fence", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        with pytest.raises(StorageError, match="has been locked"):
            storage.put("run/a", source, SECOND)
    finally:
        os.close(holder)
    storage.put("run/a", source, SECOND)


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "run/../../x", "run/\0"])
def test_keys_stay_below_the_root(storage: FileStorage, key: str) -> None:
    with pytest.raises(StorageError, match="is not a key"):
        storage.stat(key)


@pytest.mark.parametrize("url", ["experiments", "ftp://x/y", "file://", "file://host/x"])
def test_an_unknown_storage_url_is_refused_with_the_form_it_should_have(url: str) -> None:
    with pytest.raises(StorageError, match="file:///directory"):
        open_storage(url)


def test_a_storage_url_may_hold_a_space(tmp_path: Path) -> None:
    directory = tmp_path / "my runs"
    storage = open_storage(directory.as_uri())
    storage.seize(FIRST)
    assert (directory / "run").is_dir()
