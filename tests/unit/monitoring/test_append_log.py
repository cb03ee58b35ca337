"""AppendLog: on the disk within a second, also in a forked child and on a disk that is full."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from monitoring import MetricsLogger
from monitoring.metrics import append_log
from monitoring.metrics.append_log import AppendLog

DEADLINE = 30.0

# Fork and sync are tried in processes of their own: there no other thread is in the way.
PRELUDE = """
import os, sys, threading, time
from pathlib import Path
from monitoring.metrics.append_log import AppendLog

def wait_for(condition, what):
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            sys.stderr.write(f"waited in vain for {what}")
            os._exit(3)
        time.sleep(0.01)

real, synced = os.fdatasync, []
def fdatasync(descriptor):
    real(descriptor)
    synced.append(os.fstat(descriptor).st_ino)
os.fdatasync = fdatasync
path = Path(sys.argv[1])
log = AppendLog(path)
"""


def run(script: str, path: Path) -> str:
    """What a program that logs to `path` wrote to its standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRELUDE + script, path],
        check=False, capture_output=True, text=True, timeout=2 * DEADLINE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def steps(*files: Path) -> list[int]:
    text = "".join(file.read_text() for file in files)
    return [int(step) for step in re.findall(r'^{"step": (\d+), .*}$', text, re.MULTILINE)]


def test_logs_are_synced_each_second(tmp_path: Path) -> None:
    run(
        """
for count in range(1, 4):
    log.append(b"line\\n")
    wait_for(lambda: len(synced) >= count, "the sync")
assert set(synced) == {path.stat().st_ino}
before = len(synced)
log.close()
assert len(synced) <= before + 1, "nothing new, nothing to sync"
""",
        tmp_path / "log",
    )


def test_a_forked_child_syncs_by_a_thread_of_its_own(tmp_path: Path) -> None:
    run(
        """
log.append(b"parent\\n")
wait_for(lambda: synced, "the parent's sync")
child = os.fork()
if child == 0:
    synced.clear()
    log.append(b"child\\n")
    wait_for(lambda: synced, "the child's sync")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
        tmp_path / "log",
    )
    assert (tmp_path / "log").read_text() == "parent\nchild\n"


def test_a_child_forked_while_the_disk_syncs_can_log_and_close(tmp_path: Path) -> None:
    run(
        """
begun, go_on = threading.Event(), threading.Event()
def slow(descriptor):
    begun.set()
    go_on.wait()
os.fdatasync = slow
log.append(b"parent\\n")
assert begun.wait(30)
child = os.fork()
if child == 0:
    os.fdatasync = real
    log.append(b"child\\n")
    log.close()
    os._exit(0)
status = []
def ended():
    pid, code = os.waitpid(child, os.WNOHANG)
    status.append(code)
    return pid
wait_for(ended, "the child")
go_on.set()
assert status[-1] == 0
""",
        tmp_path / "log",
    )
    assert (tmp_path / "log").read_text() == "parent\nchild\n"


def test_whoever_appends_does_not_wait_for_a_disk_that_syncs(tmp_path: Path) -> None:
    run(
        """
begun, go_on = threading.Event(), threading.Event()
def slow(descriptor):
    begun.set()
    go_on.wait()
os.fdatasync = slow
log.append(b"1\\n")
assert begun.wait(30)
log.hold(b"2\\n")
log.flush()
log.append(b"3\\n")
assert path.read_text() == "1\\n2\\n3\\n"
go_on.set()
""",
        tmp_path / "log",
    )


def test_lines_held_at_a_fork_are_written_once(tmp_path: Path) -> None:
    run(
        """
log.hold(b"held\\n")
child = os.fork()
if child == 0:
    log.hold(b"child\\n")
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
""",
        tmp_path / "log",
    )
    assert (tmp_path / "log").read_text() == "child\nheld\n"


@pytest.mark.parametrize("way", ["moved", "removed", "moved to another disk"])
def test_rows_go_to_a_new_file_when_the_log_was_archived(tmp_path: Path, way: str) -> None:
    logger = MetricsLogger(tmp_path / "logs")
    archive = tmp_path / "archive.jsonl"
    logger.log_metrics(0, {"loss": 1.0})
    logger.get_latest_step()  # so that the first row is known to be in the file
    if way == "moved":
        shutil.move(logger.metrics_file, archive)
    elif way == "moved to another disk":
        shutil.copy(logger.metrics_file, archive)
    if way != "moved":
        logger.metrics_file.unlink()
    logged = [0]

    def followed() -> bool:
        logged.append(logged[-1] + 1)
        logger.log_metrics(logged[-1], {"loss": 1.0})
        return logger.metrics_file.exists()

    wait_for(followed)
    logger.close()
    if way == "removed":
        assert steps(logger.metrics_file) == logged[1:]
    else:
        assert steps(archive, logger.metrics_file) == logged


@pytest.mark.parametrize("call", ["flush", "load_metrics", "get_latest_step"])
def test_whoever_reads_or_flushes_meets_the_new_file_at_once(tmp_path: Path, call: str) -> None:
    logger = MetricsLogger(tmp_path)
    logger.log_metrics(0, {"loss": 1.0})
    shutil.move(logger.metrics_file, tmp_path / "archive.jsonl")
    getattr(logger, call)()
    logger.log_metrics(1, {"loss": 1.0})
    assert [row["step"] for row in logger.load_metrics()] == [1]
    assert logger.get_latest_step() == 1
    assert steps(tmp_path / "archive.jsonl") == [0]


@pytest.mark.parametrize("rows", [15_000, pytest.param(100_000, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("way", ["archiving", "closing", "rewinding"])
def test_whatever_happens_to_the_file_a_thread_that_logs_loses_no_row_and_spoils_no_other(
    tmp_path: Path, way: str, rows: int, caplog: pytest.LogCaptureFixture
) -> None:
    logger = MetricsLogger(tmp_path / "logs")
    done = threading.Event()

    def train() -> None:
        for step in range(rows):
            logger.log_metrics(step, {"loss": 1.0})
        done.set()

    def open_other_files() -> None:
        # Takes the number of any descriptor that is closed too early.
        while not done.is_set():
            with (tmp_path / "other").open("ab"):
                pass

    logger.log_metrics(rows, {"loss": 1.0})
    threads = [threading.Thread(target=train), threading.Thread(target=open_other_files)]
    for thread in threads:
        thread.start()
    archives = [tmp_path / "logs/metrics.superseded.jsonl"] if way == "rewinding" else []
    while not done.is_set():
        if way == "archiving":
            archives.append(tmp_path / f"archive{len(archives)}.jsonl")
            shutil.move(logger.metrics_file, archives[-1])
            logger.flush()
        elif way == "closing":
            logger.close()
        else:
            logger.rewind(rows // 2)  # the first row is superseded at once, and half of the others
    for thread in threads:
        thread.join()
    logger.close()
    assert sorted(steps(*archives, logger.metrics_file)) == list(range(rows + 1))
    assert (tmp_path / "other").read_bytes() == b""
    assert not caplog.records


def test_who_opens_a_log_in_the_middle_of_anothers_line_adds_no_empty_one(tmp_path: Path) -> None:
    """A write of many pages is seen by others as far as it has come."""
    path = tmp_path / "metrics.jsonl"
    writes = (
        "import os, sys, time\n"
        "file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        "while True: os.write(file, b'x' * 200_000 + b'\\n'), time.sleep(0.001)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", writes, str(path)])
    try:
        while not path.exists():
            time.sleep(0.001)
        for _ in range(200):
            AppendLog(path).append(b"mine\n")
            time.sleep(0.003)
    finally:
        writer.kill()
        writer.wait()
    lines = path.read_bytes().splitlines()
    assert lines.count(b"mine") == 200
    assert b"" not in lines


def test_what_is_removed_for_good_is_not_made_again(tmp_path: Path) -> None:
    log = AppendLog(tmp_path / "logs" / "log")
    log.append(b"line\n")
    log.watch()
    shutil.move(tmp_path / "logs" / "log", tmp_path / "archive")
    log.watch()
    log.close()
    assert not (tmp_path / "logs" / "log").exists()
    log.append(b"line\n")
    shutil.rmtree(tmp_path / "logs")
    log.watch()
    log.close()
    assert not (tmp_path / "logs").exists()


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A file on a disk without room."""
    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    return path


def test_a_full_disk_is_tried_again_once_a_second(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    write = os.write

    def counted(descriptor: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", counted)
    monkeypatch.setattr(append_log, "_BATCH", 10_000)
    now = 100.0
    log = AppendLog(full, clock=lambda: now)
    for _ in range(1000):
        log.append(b"x" * 99 + b"\n")
        log.hold(b"y" * 99 + b"\n")
    assert len(sizes) == 1
    now += 1.0
    log.append(b"x\n")
    assert len(sizes) == 2
    log.flush()
    assert len(sizes) == 3
    assert sizes[-1] <= 10_000, "not all that waits, each time"
    full.unlink()
    log.close()
    assert full.read_bytes() == (b"x" * 99 + b"\n" + b"y" * 99 + b"\n") * 1000 + b"x\n"


def test_of_too_many_waiting_lines_the_oldest_are_dropped_with_one_warning(
    full: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(append_log, "_MOST", 1000)
    log = AppendLog(full, clock=lambda: 0.0)
    for number in range(100):
        log.append(b"%99d\n" % number)
    full.unlink()
    log.flush()
    assert [int(line) for line in full.read_text().splitlines()] == list(range(90, 100))
    first, second = [record.getMessage() for record in caplog.records]
    assert "No space left on device" in first
    assert "the 90 oldest lines were lost" in second
    log.close()


def test_lines_that_never_found_room_are_counted_at_the_exit(full: Path) -> None:
    said = run("for _ in range(3): log.append(b'line\\n')", full)
    assert "lacks 3 lines, which could not be written" in said
