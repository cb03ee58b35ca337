"""What only a directory of runs does, and which URL opens which storage."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monitoring.storage import directory as file_storage
from monitoring.storage.base import Fence, OvertakenError, StorageError
from monitoring.storage.directory import FileStorage
from monitoring.storage.open import open_storage

FIRST, SECOND = Fence("run", 1), Fence("run", 2)


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"data")
    return path


def test_an_immutable_file_is_linked_and_another_is_copied(
    storage: FileStorage, source: Path
) -> None:
    storage.put("run/linked", source, FIRST, immutable=True)
    storage.put("run/copied", source, FIRST)
    assert (storage.root / "run/linked").stat().st_ino == source.stat().st_ino
    assert (storage.root / "run/copied").stat().st_ino != source.stat().st_ino


def test_a_put_that_fails_leaves_no_temporary_file(storage: FileStorage, source: Path) -> None:
    storage.put("run/a", source, FIRST)
    with pytest.raises(FileNotFoundError):
        storage.put("run/a", source.with_name("none"), FIRST)
    assert {p.name for p in (storage.root / "run").iterdir()} == {".fence", "a"}


def test_what_a_writer_left_that_was_killed_is_gone_when_the_next_attempt_has_the_run(
    storage: FileStorage, source: Path
) -> None:
    storage.put("run/a", source, FIRST)
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from monitoring.storage import directory as file_storage\n"
        "from monitoring.storage.base import Fence\n"
        "file_storage.sync_all = lambda paths: os.kill(os.getpid(), signal.SIGKILL)\n"
        "storage = file_storage.FileStorage(Path(sys.argv[1]))\n"
        "storage.put('run/checkpoints/b', Path(sys.argv[2]), Fence('run', 1))\n"
    )
    command = [sys.executable, "-c", script, str(storage.root), str(source)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert list((storage.root / "run" / "checkpoints").iterdir())
    storage.seize(SECOND)
    assert not list((storage.root / "run" / "checkpoints").iterdir())
    assert storage.read("run/a") == b"data"


def test_a_volume_that_is_away_is_no_run_that_was_deleted(
    storage: FileStorage, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.seize(FIRST)
    storage.root.rename(storage.root.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError):
        storage.put("run/a", source, FIRST)
    storage.root.mkdir()  # where it is mounted
    monkeypatch.setattr(storage, "_device", -1)
    with pytest.raises(FileNotFoundError):
        storage.put("run/a", source, FIRST)
    assert not list(storage.root.iterdir())
    monkeypatch.undo()
    storage.root.rmdir()
    storage.root.with_name("elsewhere").rename(storage.root)
    storage.put("run/a", source, FIRST)
    assert storage.read("run/a") == b"data"


def test_an_overtaken_writer_copies_nothing(
    storage: FileStorage, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.seize(SECOND)
    monkeypatch.setattr(file_storage.sparse, "copy", lambda *_: pytest.fail("it copies"))
    with pytest.raises(OvertakenError):
        storage.put("run/a", source, FIRST)


def test_a_deleted_run_leaves_no_directory(storage: FileStorage, source: Path) -> None:
    storage.put("run/a/b", source, FIRST)
    storage.delete_run("run")
    assert not (storage.root / "run").exists()


def test_a_stopped_holder_of_the_lock_does_not_stop_others_for_ever(
    storage: FileStorage, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.seize(FIRST)
    monkeypatch.setattr(file_storage, "_LOCK_SECONDS", 0.05)
    holder = os.open(storage.root / "run" / ".fence", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        with pytest.raises(StorageError, match="has been locked"):
            storage.put("run/a", source, SECOND)
    finally:
        os.close(holder)
    storage.put("run/a", source, SECOND)


@pytest.mark.parametrize(
    "url", ["experiments", "ftp://x/y", "file://", "file://host/x", "s3://", "s3:///prefix"]
)
def test_an_unknown_storage_url_is_refused_with_the_form_it_should_have(url: str) -> None:
    with pytest.raises(StorageError, match="file:///directory or s3://bucket/prefix"):
        open_storage(url)


def test_a_storage_url_may_hold_a_space(tmp_path: Path) -> None:
    directory = tmp_path / "my runs"
    storage = open_storage(directory.as_uri())
    storage.seize(FIRST)
    assert (directory / "run").is_dir()


def test_boto3_is_loaded_for_an_object_store_only_and_asked_for_where_it_is_missing() -> None:
    script = (
        "import sys; sys.modules['boto3'] = None\n"
        "from monitoring.storage.base import StorageError\n"
        "from monitoring.storage.open import open_storage\n"
        "open_storage('file:///x')\n"
        "try: open_storage('s3://bucket')\n"
        "except StorageError as error: print(error)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "pip install 'spectrain[s3]'" in answer.stdout
