"""Measures what the files and the output of a program cost storage, the disk and a checkpoint.

A program of another kind writes what it likes, and the publication runs beside it as it does in a
worker. Three programs: one appends 1 MiB a second to a file for `--seconds`; one writes `--files`
small files at once; one prints `--flood` MB a second. The first is measured in bytes that reach
storage, in a directory and, through a proxy that counts, in an object store. The other two are
measured by the delay of a checkpoint: the time from its commit on the scratch disk until storage
has it, in excess of the same without those files or that output.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from bench.report import Report, options
from bench.system.store import Proxy, environment, s3_store
from monitoring.checkpoints import commit
from monitoring.storage.base import Fence, Storage
from monitoring.storage.open import open_storage
from worker.attempt.background import Background
from worker.attempt.retry import TICK_SECONDS
from worker.attempt.supervisor import PUBLICATION_NICE
from worker.files.publish import Publisher
from worker.files.restore import restore
from worker.files.scratch import Scratch

_MB = 1 << 20
_CHECKPOINTS = 3
_BYTES = 10 * _MB  # of a checkpoint
Beside = contextlib.AbstractContextManager[None]


class Attempt:
    """An attempt whose files are published in the background, as by a worker."""

    def __init__(self, storage: Storage, scratch: Scratch) -> None:
        self.storage, self.scratch = storage, scratch
        fence = Fence(scratch.job_id, scratch.attempt)
        storage.seize(fence)
        restored = restore(storage, scratch.job_id, scratch.run)
        assert restored is not None
        self.publisher = Publisher(storage, scratch, fence, restored)
        self.most_disk = 0.0  # MB of output on the scratch disk

    @contextlib.contextmanager
    def published(self) -> Iterator[None]:
        """Publishes each second, and once more at the end."""
        overtaken, ended = threading.Event(), threading.Event()
        background = Background(
            "storage", self.publisher.publish, seconds=TICK_SECONDS, on_overtaken=overtaken,
            nice=PUBLICATION_NICE,
        )  # fmt: skip
        trimming = threading.Thread(target=self._trim, args=(ended,))
        background.start()
        trimming.start()
        try:
            yield
        finally:
            ended.set()
            trimming.join()
            background.stop()
            self.publisher.close("ended")
            self.publisher.publish()

    def _trim(self, ended: threading.Event) -> None:
        while not ended.wait(TICK_SECONDS):
            self.publisher.trim_output()

    def watch_disk(self) -> None:
        """Notes the disk that the output takes."""
        with contextlib.suppress(FileNotFoundError):
            used = self.scratch.output.stat().st_blocks * 512 / _MB
            self.most_disk = max(self.most_disk, used)

    def delay(self, step: int) -> float:
        """Seconds from the commit of a new checkpoint until storage has it."""
        path = self.scratch.run.checkpoint(step)
        path.write_bytes(os.urandom(_BYTES))
        checksum = commit.checksum(path, "crc32")
        commit.write(path, commit.CommitRecord(step, _BYTES, checksum, 1, time.time(), keep=2))
        committed = time.monotonic()
        newest = self.publisher.checkpoint
        while newest is None or newest.step != step:
            self.watch_disk()
            time.sleep(0.01)
            newest = self.publisher.checkpoint
        return time.monotonic() - committed


@contextlib.contextmanager
def attempt_in(storage: Storage, directory: Path, name: str) -> Iterator[Attempt]:
    """An attempt of a new run, which is removed at the end."""
    scratch = Scratch(directory / "scratch", name, 1, "0")
    with scratch.held():
        attempt = Attempt(storage, scratch)
        with attempt.published():
            yield attempt
    storage.delete_run(name)


def growth(storage: Storage, directory: Path, seconds: int, sent: Callable[[], int]) -> float:
    """Bytes sent per byte of a file that grows by 1 MiB each second."""
    with attempt_in(storage, directory, "growth-23456789") as attempt:
        before, due = sent(), time.monotonic()
        with (attempt.scratch.workspace / "stream.bin").open("ab", buffering=0) as file:
            for _ in range(seconds):
                file.write(os.urandom(_MB))
                due += 1.0
                time.sleep(max(0.0, due - time.monotonic()))
    return (sent() - before) / (seconds * _MB)


def delays(
    storage: Storage, directory: Path, beside: Callable[[Attempt], Beside], name: str
) -> tuple[list[float], float]:
    """The delays of some checkpoints, and the disk that the output took, MB.

    Each is the second checkpoint of a new run, written `beside` something else.
    """
    found, disk = [], 0.0
    for number in range(_CHECKPOINTS):
        with attempt_in(storage, directory, f"{name}{number}-23456789") as attempt:
            attempt.delay(1)
            with beside(attempt):
                found.append(attempt.delay(2))
        disk = max(disk, attempt.most_disk)
    return found, disk


@contextlib.contextmanager
def _nothing(_: Attempt) -> Iterator[None]:
    time.sleep(4.0)
    yield


@contextlib.contextmanager
def _files(attempt: Attempt, count: int) -> Iterator[None]:
    """Many small files, which are being sent."""
    folder = attempt.scratch.workspace / "many"
    folder.mkdir()
    for name in range(count):
        (folder / f"{name}.json").write_bytes(os.urandom(200))
    time.sleep(4.0)
    yield


@contextlib.contextmanager
def _flood(attempt: Attempt, rate: float) -> Iterator[None]:
    """Output of `rate` MB each second."""
    ended = threading.Event()
    printing = threading.Thread(target=_print, args=(attempt, rate, ended))
    printing.start()
    time.sleep(4.0)
    try:
        yield
    finally:
        ended.set()
        printing.join()


def _print(attempt: Attempt, rate: float, ended: threading.Event) -> None:
    line = b"x" * 99 + b"\n"
    block = line * (_MB // len(line))
    due = time.monotonic()
    with attempt.scratch.output.open("ab", buffering=0) as output:
        while not ended.is_set():
            output.write(block)
            attempt.watch_disk()
            due = max(due + 1 / rate, time.monotonic() - 1.0)
            time.sleep(max(0.0, due - time.monotonic()))


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark."""
    chosen = options("traffic", seconds=60, files=5000, flood=100.0).parse_args(argv)
    setting = {"seconds": chosen.seconds, "files": chosen.files, "flood MB/s": chosen.flood}
    report = Report("traffic", setting)
    with tempfile.TemporaryDirectory() as name, s3_store() as (_, port):
        directory, proxy = Path(name), Proxy(port)
        os.environ.update(environment(proxy.port))
        (directory / "store").mkdir()
        stores: dict[str, Storage] = {
            "directory": open_storage(f"file://{directory / 'store'}"),
            "object store": open_storage(os.environ["SPECTRAIN_STORAGE_URL"]),
        }
        ratio = growth(stores["object store"], directory, chosen.seconds, lambda: proxy.sent_bytes)
        report.add("1 MiB/s appended, object store", "bytes sent per byte", [ratio])
        report.bar("1 MiB/s appended: bytes sent per byte", ratio, 1.2)
        for store, storage in stores.items():
            alone, _ = delays(storage, directory, _nothing, "alone")
            few = report.add(f"a checkpoint's delay, {store}", "s", alone)
            many, _ = delays(storage, directory, partial(_files, count=chosen.files), "many")
            report.add(f"beside {chosen.files} new files, {store}", "s", many)
            report.bar(f"{chosen.files} files delay a checkpoint, {store}, s",
                       statistics.median(many) - few, 2.0)  # fmt: skip
            flood, disk = delays(storage, directory, partial(_flood, rate=chosen.flood), "flood")
            report.add(f"beside a flood of output, {store}", "s", flood)
            report.bar(f"a flood delays a checkpoint, {store}, s",
                       statistics.median(flood) - few, 2.0)  # fmt: skip
            report.add(f"disk of the output, {store}", "MB", [disk])
            report.bar(f"disk of the output, {store}, MB", disk, 300.0)
    return report.show(keep=chosen.keep)
