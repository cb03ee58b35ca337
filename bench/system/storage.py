"""Measures a checkpoint's way to an object store and back against boto3, and its cost in training.

Three processes: a training loop on one thread, the uploader, and an S3 server. In production the
server runs on another machine, so here it has one processor and the lowest priority (nice 19). The
uploader sends a checkpoint of `--mb` with the service's own publication (fence, data, commit
record, link) and with `boto3.upload_file` while the loop trains; then it restores and verifies the
run, and downloads the same object with `boto3.download_file`. The order changes from turn to turn.
The loop's steps during an upload are compared with those just before and after it. The cost of the
store itself counts in full; sending the same bytes with `sendfile` shows how large it is.
"""

from __future__ import annotations

import http.client
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import torch

from bench.library.checkpoint import training
from bench.report import PeakMemory, Report, options
from bench.system.store import BUCKET, environment, s3_store
from monitoring.checkpoints import commit
from monitoring.storage.base import Fence
from monitoring.storage.open import open_storage
from worker.attempt.background import Background
from worker.attempt.supervisor import PUBLICATION_NICE
from worker.files.publish import Publisher
from worker.files.restore import restore
from worker.files.scratch import Restored, Scratch

_QUIET_SECONDS = 3.0
_MB = 1 << 20
_PIECE = 8 * _MB
_MOST_MEMORY = 128.0  # MB: of parts in transit, for any size of checkpoint

Taken = dict[str, float]


class Uploader:
    """The work of the uploader's process: our method and boto3's, with one run for each turn."""

    def __init__(self, directory: Path, megabytes: int) -> None:
        self._directory = directory
        self._storage = open_storage(os.environ["SPECTRAIN_STORAGE_URL"])
        self._boto = boto3.client("s3", endpoint_url=os.environ["SPECTRAIN_S3_ENDPOINT_URL"])
        address = urlsplit(os.environ["SPECTRAIN_S3_ENDPOINT_URL"])
        self._plain = http.client.HTTPConnection(str(address.hostname), address.port)
        self._file = directory / "checkpoint"
        with self._file.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(_MB))
        self._record = commit.CommitRecord(
            1000, megabytes * _MB, commit.checksum(self._file, "crc32"), 1, time.time(), keep=3
        )

    def ours_up(self, turn: int) -> None:
        """Publishes a run with one checkpoint."""
        fence = Fence(f"run{turn}", 1)
        scratch = Scratch(self._directory, fence.run, fence.attempt)
        with scratch.held():
            path = scratch.run.checkpoint(self._record.step)
            path.hardlink_to(self._file)
            commit.write(path, self._record)
            scratch.run.latest_checkpoint.symlink_to(path.name)
            self._storage.seize(fence)
            publisher = Publisher(self._storage, scratch, fence, Restored(None, {}, {}))
            _in_background(publisher.publish)
        assert publisher.checkpoint == self._record

    def ours_down(self, turn: int) -> None:
        """Restores that run."""
        scratch = Scratch(self._directory, f"run{turn}", 2)
        with scratch.held():
            self._storage.seize(Fence(f"run{turn}", 2))
            restored = restore(self._storage, f"run{turn}", scratch.run)
            assert restored is not None
            assert restored.checkpoint == self._record

    def boto_up(self, turn: int) -> None:
        """Uploads the same file with boto3's defaults."""
        self._boto.upload_file(str(self._file), BUCKET, f"boto{turn}")

    def plain_up(self, turn: int) -> None:
        """Sends the same bytes with almost no work for the sender: the cost of the store itself."""
        with self._file.open("rb") as file:
            for offset in range(0, self._record.size, _PIECE):
                size = min(_PIECE, self._record.size - offset)
                target = {"Bucket": BUCKET, "Key": f"plain{offset}"}
                url = urlsplit(self._boto.generate_presigned_url("put_object", target))
                self._plain.putrequest("PUT", f"{url.path}?{url.query}")
                self._plain.putheader("Content-Length", str(size))
                self._plain.endheaders()
                self._plain.sock.sendfile(file, offset, size)
                answer = self._plain.getresponse()
                answer.read()
                assert answer.status == 200

    def boto_down(self, turn: int) -> None:
        """Downloads the same object with boto3's defaults."""
        target = self._directory / "downloaded"
        self._boto.download_file(BUCKET, f"boto{turn}", str(target))
        target.unlink()

    def forget(self, turn: int) -> None:
        """Empties the store."""
        self._storage.delete_run(f"run{turn}")
        for offset in range(0, self._record.size, _PIECE):
            self._boto.delete_object(Bucket=BUCKET, Key=f"plain{offset}")
        self._boto.delete_object(Bucket=BUCKET, Key=f"boto{turn}")


def _in_background(action: Callable[[], None]) -> None:
    """Calls `action` once, as the supervisor does during training."""
    done, overtaken = threading.Event(), threading.Event()

    def once() -> None:
        action()
        done.set()

    background = Background(
        "storage", once, seconds=3600.0, on_overtaken=overtaken, nice=PUBLICATION_NICE
    )
    background.start()
    background.trigger()
    done.wait()
    background.stop()


def _serve(pipe: Connection, directory: Path, megabytes: int, store: dict[str, str]) -> None:
    """The uploader's process: executes commands and reports their time and memory."""
    os.environ.update(store)
    uploader, peak = Uploader(directory, megabytes), PeakMemory()
    pipe.send(None)
    while (command := pipe.recv()) is not None:
        name, turn = command
        peak.restart()
        start, cpu = time.perf_counter(), time.process_time()
        getattr(uploader, name)(turn)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        pipe.send({"seconds": seconds, "cpu": cpu, "peak": peak.extra() / _MB})


class TrainingLoop:
    """A training loop in a process of its own: steps of about ten milliseconds on one thread."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._wanted = context.Event()
        self._ended = context.Event()
        self._progress = context.Array("d", 2)  # the number of steps, and when the last one ended
        self._process = context.Process(
            target=_train, args=(self._wanted, self._ended, self._progress)
        )
        self._process.start()

    def step_seconds(self, meanwhile: Callable[[], object]) -> float:
        """The average seconds of a step while `meanwhile` runs."""
        self._wanted.set()
        first, start = self._next_step()
        meanwhile()
        last, end = self._next_step()
        return (end - start) / (last - first)

    def pause(self) -> None:
        """Stops training until `step_seconds` is called again."""
        self._wanted.clear()

    def end(self) -> None:
        """Ends the process."""
        self._ended.set()
        self._wanted.set()
        self._process.join()

    def _next_step(self) -> tuple[float, float]:
        """The number of steps and the time, at the end of the next step."""
        before = self._progress[0]
        while self._progress[0] == before:
            time.sleep(0.001)
        with self._progress.get_lock():
            return self._progress[0], self._progress[1]


def _train(wanted: Event, ended: Event, progress: Any) -> None:
    torch.set_num_threads(1)
    step = training()
    while not ended.is_set():
        wanted.wait()
        step()
        with progress.get_lock():
            progress[0], progress[1] = progress[0] + 1, time.monotonic()


@contextmanager
def _uploader(
    directory: Path, megabytes: int, store: dict[str, str]
) -> Iterator[Callable[[str, int], Taken]]:
    """A function that calls a method of the uploader's process and returns what it took."""
    context = multiprocessing.get_context("spawn")
    pipe, its_end = context.Pipe()
    process = context.Process(target=_serve, args=(its_end, directory, megabytes, store))
    process.start()
    its_end.close()

    def ask(name: str, turn: int) -> Taken:
        pipe.send((name, turn))
        answer: Taken = pipe.recv()
        return answer

    try:
        pipe.recv()
        yield ask
        pipe.send(None)
    finally:
        pipe.close()
        process.join()


def main(argv: Sequence[str]) -> int:
    """Upload and download in turns; return 1 if a limit is exceeded."""
    parser = options("storage", mb=1000, turns=6)
    parser.add_argument(
        "--dir", default=None, help="directory to write to (default: a temporary one)"
    )
    arguments = parser.parse_args(argv)
    cores = len(os.sched_getaffinity(0))
    report = Report("storage", {"mb": arguments.mb, "turns": arguments.turns, "cores": cores})
    loop = TrainingLoop()
    try:
        with (
            tempfile.TemporaryDirectory(dir=arguments.dir) as directory,
            s3_store(beside_others=True) as (_, port),
            _uploader(Path(directory), arguments.mb, environment(port)) as ask,
        ):
            turns = [_turn(loop, ask, number) for number in range(arguments.turns + 1)][1:]
    finally:
        loop.end()
    _report(report, arguments.mb, turns)
    return report.show(keep=arguments.keep)


def _turn(loop: TrainingLoop, ask: Callable[[str, int], Taken], number: int) -> dict[str, Taken]:
    """What each method took, up and down; the order changes from turn to turn."""
    ways = ("ours", "boto") if number % 2 else ("boto", "ours")
    uploads = [f"{way}_up" for way in (*ways, "plain")]
    uploads = uploads[number % 3 :] + uploads[: number % 3]
    taken: dict[str, Taken] = {}

    def quiet() -> float:
        return loop.step_seconds(lambda: time.sleep(_QUIET_SECONDS))

    before = quiet()
    for name in uploads:

        def upload(name: str = name) -> None:
            taken[name] = ask(name, number)

        during = loop.step_seconds(upload)
        after = quiet()
        taken[name] |= {"step": 1e3 * during, "alone": 1e3 * (before + after) / 2}
        before = after
    loop.pause()  # no training runs during a restore
    for name in (f"{way}_down" for way in ways):
        taken[name] = ask(name, number)
    ask("forget", number)
    return taken


def _report(report: Report, megabytes: int, turns: Sequence[dict[str, Taken]]) -> None:
    names = {"up": ("publication", "upload_file"), "down": ("restore", "download_file")}
    for way, (ours, theirs) in names.items():
        for name, label in ((f"ours_{way}", ours), (f"boto_{way}", f"boto3.{theirs}")):
            taken = [turn[name] for turn in turns]
            report.add(label, "MB/s", [megabytes / one["seconds"] for one in taken])
            report.add(f"{label}, processor time", "s", [one["cpu"] for one in taken])
            report.add(f"{label}, peak extra memory", "MB", [one["peak"] for one in taken])
        ratios = [t[f"ours_{way}"]["seconds"] / t[f"boto_{way}"]["seconds"] for t in turns]
        report.add(f"{ours}, times of boto3.{theirs}", "x", ratios)
        # At least 0.8 times as fast.
        report.bar(f"{ours}, times of boto3.{theirs}", statistics.median(ratios), 1 / 0.8)
        peak = max(turn[f"ours_{way}"]["peak"] for turn in turns)
        report.bar(f"{ours}, peak extra memory in MB", peak, _MOST_MEMORY)
    _report_steps(report, turns)


def _report_steps(report: Report, turns: Sequence[dict[str, Taken]]) -> None:
    """Adds the slowdown of the training."""
    report.add("a step alone", "ms", [turn["ours_up"]["alone"] for turn in turns])
    labels = {"plain": "sendfile", "boto": "boto3.upload_file", "ours": "publication"}
    for way, label in labels.items():
        slower = [100 * (t[f"{way}_up"]["step"] / t[f"{way}_up"]["alone"] - 1) for t in turns]
        median = report.add(f"a step beside {label}, longer by", "%", slower)
    report.bar("percent by which publication slows the training loop", median, 3.0)
