"""A directory on a file system that lacks something: every operation works, and it is said once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from monitoring import files
from monitoring.storage import directory as file_storage
from monitoring.storage import file_system, link_files, run_lock
from monitoring.storage.base import LOCK_NAME, Fence, OvertakenError, StorageError
from monitoring.storage.directory import FileStorage

FIRST, SECOND = Fence("run", 1), Fence("run", 2)

# What file systems answer, by what they lack.
ANSWERS = {
    "link": [errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EMLINK,
             errno.EXDEV],
    "symlink": [errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP],
    "flock": [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL],
    "fsync of a directory": [errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES],
    "fsync": [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP],
    "syncfs": [errno.EPERM, errno.ENOSYS, errno.EINVAL],
}  # fmt: skip
CASES = [(call, number) for call, numbers in ANSWERS.items() for number in numbers]


def refuse(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """Makes a system call fail, as it does on a file system that lacks it."""

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    fsync = os.fsync

    def fails_of_directory(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            fails()
        fsync(descriptor)

    match call:
        case "link" | "symlink" | "fsync":
            monkeypatch.setattr(os, call, fails)
        case "flock":
            monkeypatch.setattr(fcntl, "flock", fails)
        case "fsync of a directory":
            monkeypatch.setattr(os, "fsync", fails_of_directory)
        case "syncfs":
            monkeypatch.setattr(files, "_sync_file_system", lambda _: False)


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"data")
    return path


def use_all(storage: FileStorage, source: Path) -> None:
    """Calls every operation, and looks at what became of it."""
    storage.seize(FIRST)
    storage.put("run/a", source, FIRST)
    storage.put("run/a", source, FIRST, immutable=True)
    storage.put_all({f"run/many/{n}": source for n in range(20)}, FIRST)
    storage.keep("run/a", "run/.contents/1", FIRST)
    storage.keep_all({"run/a": "run/.contents/2"}, FIRST)
    storage.append("run/log", 0, b"one", FIRST)
    storage.append("run/log", 3, b"two", FIRST)
    storage.append("run/free", 0, b"of a fence")
    storage.point("run/a.pt", "log", FIRST)
    storage.point("run/a.pt", "a", FIRST)
    storage.point("run/of.pt", "a.pt", FIRST)
    names = ["run/a", "run/free", "run/log", *sorted(f"run/many/{n}" for n in range(20))]
    assert [file.key for file in storage.list("run")] == names
    assert storage.links("run") == {"run/a.pt": "a", "run/of.pt": "a.pt"}
    assert [f.key for f in storage.list("run/.contents")] == ["run/.contents/1", "run/.contents/2"]
    for key in ("run/a", "run/a.pt", "run/of.pt", "run/.contents/1", "run/.contents/2"):
        found, path = storage.stat(key), storage.local_path(key)
        assert found is not None
        assert (found.size, storage.read(key), storage.read(key, 1, 2)) == (4, b"data", b"at")
        assert path is not None
        assert path.read_bytes() == b"data"
        for immutable in (False, True):
            target = source.with_name(f"got-{immutable}")
            target.unlink(missing_ok=True)
            storage.get(key, target, immutable=immutable)
            assert target.read_bytes() == b"data"
    assert storage.read("run/log") == b"onetwo"
    storage.put("run/a.pt", source, FIRST)  # a file in place of a link, and the reverse
    assert storage.links("run") == {"run/of.pt": "a.pt"}
    storage.point("run/log", "a", FIRST)
    assert storage.read("run/log") == b"data"
    storage.delete("run/log", FIRST)
    storage.delete_all([f"run/many/{n}" for n in range(20)], FIRST)
    storage.seize(SECOND)
    for write in (
        lambda: storage.put("run/a", source, FIRST),
        lambda: storage.append("run/a", 0, b"", FIRST),
        lambda: storage.point("run/latest", "a", FIRST),
        lambda: storage.delete("run/a", FIRST),
    ):
        with pytest.raises(OvertakenError):
            write()
    assert [file.key for file in storage.list("run")] == ["run/a", "run/a.pt", "run/free"]
    assert storage.leftovers("run") == []
    assert not (storage.root / "run" / LOCK_NAME).exists()
    storage.delete_run("run")
    assert storage.runs() == []


@pytest.mark.parametrize(("call", "number"), CASES, ids=lambda v: errno.errorcode.get(v, v))
def test_no_operation_needs_what_a_file_system_may_lack(
    call: str, number: int, storage: FileStorage, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, call, number)
    use_all(storage, source)


def test_a_file_system_may_lack_all_of_it_and_says_each_once(
    storage: FileStorage, source: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for call, numbers in ANSWERS.items():
        if call != "fsync":
            refuse(monkeypatch, call, numbers[-3])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            use_all(storage, source)
            storage = storage.for_trial()
    lacks = {file_system.HARD_LINKS, file_system.SYMBOLIC_LINKS, run_lock.LOCKS,
             file_system.DIRECTORY_SYNC}  # fmt: skip
    assert set(storage.lacks.sentences()) == {str(lack) for lack in lacks}
    assert len(caplog.messages) == len(lacks)


def test_a_whole_file_system_says_nothing(
    storage: FileStorage, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    use_all(storage, source)
    assert (storage.lacks.sentences(), caplog.messages) == ([], [])


@pytest.mark.parametrize("call", ["link", "symlink", "fsync", "flock"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.ESTALE])
def test_an_error_that_is_no_refusal_is_raised(
    call: str, number: int, storage: FileStorage, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, call, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        use_all(storage, source)


# -- links as files --------------------------------------------------------------------------


def test_a_link_file_has_the_format_that_linux_mounts_and_macos_know() -> None:
    data = link_files.encode("checkpoint_step_10.pt")
    assert len(data) == 1067
    assert data.startswith(
        b"XSym\n0021\n2db397733753a481bb6c7cf95075d5f9\ncheckpoint_step_10.pt\n  "
    )
    assert link_files.decode(data) == "checkpoint_step_10.pt"


@pytest.mark.parametrize("target", ["a", "ä ∿", "x" * 1023, "y" * 1024])
def test_a_link_file_names_what_it_was_given(target: str) -> None:
    assert link_files.decode(link_files.encode(target)) == target


@pytest.mark.parametrize("target", ["../a", "/etc/passwd", "..", ".", "a/b"])
def test_a_file_that_names_no_neighbor_is_no_link(
    target: str, storage: FileStorage, tmp_path: Path
) -> None:
    data = link_files.encode(target)
    (tmp_path / "file").write_bytes(data)
    storage.put("run/a", tmp_path / "file", FIRST)
    assert storage.links("run") == {}
    assert storage.read("run/a") == data


@pytest.mark.parametrize(
    "data", [b"x" * 1067, b"XSym\n0001\n" + b"0" * 32 + b"\na\n" + b" " * 1022]
)
def test_a_file_of_that_size_is_no_link(data: bytes, storage: FileStorage, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    storage.put("run/a", tmp_path / "file", FIRST)
    assert [file.key for file in storage.list("run")] == ["run/a"]
    assert storage.read("run/a") == data


# -- locks as files --------------------------------------------------------------------------


@pytest.fixture
def without_locks(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> FileStorage:
    refuse(monkeypatch, "flock", errno.ENOLCK)
    storage.seize(FIRST)
    return storage


def lock_of(storage: FileStorage) -> Path:
    return storage.root / "run" / LOCK_NAME


def test_the_lock_file_of_a_dead_process_of_this_machine_stops_nobody(
    without_locks: FileStorage, source: Path
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    lock_of(without_locks).write_text(f"{files.pid_namespace()}-{process.pid}-00")
    without_locks.put("run/a", source, FIRST)
    assert not lock_of(without_locks).exists()


ALIVE = f"{files.pid_namespace()}-{os.getpid()}-00"


@pytest.mark.parametrize(
    "holder", ["elsewhere-1-00", ALIVE, ""], ids=["elsewhere", "here", "nobody"]
)
def test_a_lock_file_that_stays_the_same_is_taken_away_in_the_end(
    holder: str, without_locks: FileStorage, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_storage, "_LOCK_SECONDS", 0.05)
    lock_of(without_locks).write_text(holder)
    with pytest.raises(StorageError, match="has been locked"):
        without_locks.put("run/a", source, FIRST)
    monkeypatch.setattr(run_lock, "_FORSAKEN_SECONDS", 0.02)
    without_locks.put("run/a", source, FIRST)


def test_whoever_lost_its_lock_file_writes_nothing_more(
    without_locks: FileStorage, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FileStorage(without_locks.root, without_locks.lacks)
    without_locks.put("run/a", source, FIRST)
    check = FileStorage._check
    standing = [True]

    def stands_still(self: FileStorage, *args: Any) -> None:
        check(self, *args)
        if standing.pop():
            standing.append(False)
            lock_of(self).unlink()  # as after a minute
            other.seize(SECOND)
        else:
            standing.append(False)

    monkeypatch.setattr(FileStorage, "_check", stands_still)
    source.write_bytes(b"of the first attempt")
    with pytest.raises(StorageError, match="held for too long"):
        without_locks.append("run/a", 0, b"of the first attempt", FIRST)
    assert other.read("run/a") == b"data"
    with pytest.raises(OvertakenError):
        without_locks.put("run/a", source, FIRST)


def test_whoever_is_slow_but_goes_on_keeps_its_lock_file(
    without_locks: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(run_lock.time, "monotonic", lambda: now[0])
    with without_locks._guarded(FIRST) as confirm:
        seen = set()
        for _ in range(10):
            now[0] += 20.0
            confirm()
            seen.add(lock_of(without_locks).read_bytes())
        assert len(seen) == 10
        now[0] += 31.0
        with pytest.raises(StorageError, match="held for too long"):
            confirm()
    assert not lock_of(without_locks).exists()


COUNT = """
import fcntl, sys
from pathlib import Path
from monitoring.storage.base import Fence
from monitoring.storage.directory import FileStorage
def refuse(*_): raise OSError(37, "No locks available")
fcntl.flock = refuse
storage, fence = FileStorage(Path(sys.argv[1])), Fence("run", 1)
counter = storage.root / "run" / "counter"
for _ in range(40):
    with storage._guarded(fence):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def test_two_processes_never_hold_the_lock_file_at_once(without_locks: FileStorage) -> None:
    (without_locks.root / "run" / "counter").write_text("0")
    command = [sys.executable, "-c", COUNT, str(without_locks.root)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (without_locks.root / "run" / "counter").read_text() == "120"


# -- files in use ----------------------------------------------------------------------------


@contextlib.contextmanager
def failing_at_first(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int
) -> Iterator[list[int]]:
    """Lets a function fail twice, as for a file that is in use."""
    whole: Callable[..., Any] = getattr(owner, name)
    left = [0, 0]

    def fails(*args: Any, **options: Any) -> Any:
        if left:
            left.pop()
            raise OSError(number, os.strerror(number))
        return whole(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fails)
        yield left


@pytest.mark.parametrize("number", [errno.EBUSY, errno.ETXTBSY])
def test_a_file_in_use_is_removed_and_replaced_a_moment_later(
    number: int, storage: FileStorage, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("run/a", source, FIRST)
    with failing_at_first(monkeypatch, os, "unlink", number) as left:
        storage.delete("run/a", FIRST)
        assert not left
    with failing_at_first(monkeypatch, os, "replace", number) as left:
        storage.put("run/a", source, FIRST)
        assert not left
    assert [file.key for file in storage.list("run")] == ["run/a"]


def test_a_run_with_files_in_use_is_removed_a_moment_later(
    storage: FileStorage, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("run/a", source, FIRST)
    with failing_at_first(monkeypatch, os, "rmdir", errno.ENOTEMPTY) as left:
        storage.delete_run("run")
        assert not left
    assert storage.runs() == []


def test_a_run_whose_files_stay_in_use_is_named(
    storage: FileStorage, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("run/a", source, FIRST)
    monkeypatch.setattr(file_system, "_TREE_SECONDS", 0.1)
    monkeypatch.setattr(file_system, "_PAUSE", 0.01)
    refuse_rmdir = OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    def rmdir(*_: Any, **__: Any) -> None:
        raise refuse_rmdir

    monkeypatch.setattr(os, "rmdir", rmdir)
    begun = time.monotonic()
    with pytest.raises(StorageError, match=r"a process still has files in .*/run open"):
        file_system.remove_tree(storage.root / "run")
    assert time.monotonic() - begun < 5


def test_what_nfs_and_fuse_keep_of_removed_files_is_no_file_of_a_run(
    storage: FileStorage, source: Path
) -> None:
    storage.put("run/a", source, FIRST)
    for name in (".nfs0000000000a3f1c200000001", ".fuse_hidden0000000500000001"):
        (storage.root / "run" / name).write_bytes(b"removed")
    (storage.root / "run" / ".nfs").write_bytes(b"a name like any other")
    assert [file.key for file in storage.list("run")] == ["run/.nfs", "run/a"]
