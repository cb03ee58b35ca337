"""From the scratch directory of one attempt to storage, and into that of the next."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monitoring import MetricsLogger
from monitoring.checkpoints import commit
from monitoring.paths import RunPaths, commit_record
from monitoring.storage.base import Fence, OvertakenError, StorageError
from monitoring.storage.directory import FileStorage
from worker.files import look
from worker.files.mirror import settle
from worker.files.publish import Publisher
from worker.files.restore import restore
from worker.files.scratch import Scratch, ScratchCleaner, remove_leftovers


class Attempt:
    """One attempt of the run `job` on this machine."""

    def __init__(self, tmp_path: Path, number: int, *, keeps_records: bool = False) -> None:
        self.fence = Fence("job", number)
        self.storage = FileStorage(tmp_path / "store")
        self.stored = RunPaths(tmp_path / "store" / "job")
        self.scratch = Scratch(tmp_path / "scratch", "job", number)
        self.run = self.scratch.run
        self.storage.seize(self.fence)
        self._held = self.scratch.held()
        self._held.__enter__()
        self.restored = restore(self.storage, "job", self.run, keeps_records=keeps_records)
        self.publisher = Publisher(self.storage, self.scratch, self.fence, self.restored)

    def save(self, step: int, data: bytes = b"weights") -> Path:
        path = self.run.checkpoint(step)
        path.write_bytes(data)
        crc = commit.checksum(path, "crc32")
        commit.write(path, commit.CommitRecord(step, len(data), crc, self.fence.attempt, step))
        self.run.latest_checkpoint.unlink(missing_ok=True)
        self.run.latest_checkpoint.symlink_to(path.name)
        return path

    def publish(self) -> None:
        """Publishes what has settled between two passes."""
        self.publisher.publish()
        self.publisher.publish()

    def log(self, *steps: int) -> None:
        with self.run.metrics.open("a") as file:
            file.writelines(json.dumps({"step": step}) + "\n" for step in steps)

    def prints(self, text: str) -> None:
        with self.scratch.output.open("a") as file:
            file.write(text)


@pytest.fixture
def first(tmp_path: Path) -> Attempt:
    return Attempt(tmp_path, 1)


def test_the_next_attempt_finds_what_the_first_published(first: Attempt, tmp_path: Path) -> None:
    first.log(0, 10)
    first.save(10)
    first.run.config.write_text("{}")
    first.publisher.publish()
    second = Attempt(tmp_path, 2)
    assert second.restored.checkpoint is not None
    assert second.restored.checkpoint.step == 10
    assert second.run.latest_checkpoint.resolve() == second.run.checkpoint(10).resolve()
    assert second.run.metrics.read_text() == '{"step": 0}\n{"step": 10}\n'
    second.publisher.publish()
    assert second.stored.metrics.read_text() == '{"step": 0}\n{"step": 10}\n'


def test_only_new_bytes_are_sent(first: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, int, bytes]] = []
    append = FileStorage.append

    def spy(self: FileStorage, key: str, offset: int, data: bytes, fence: Fence | None) -> None:
        sent.append((key, offset, data))
        append(self, key, offset, data, fence)

    monkeypatch.setattr(FileStorage, "append", spy)
    first.log(0)
    first.publisher.publish()
    first.publisher.publish()
    first.log(10)
    first.publisher.publish()
    assert sent == [
        ("job/logs/metrics.jsonl", 0, b'{"step": 0}\n'),
        ("job/logs/metrics.jsonl", 12, b'{"step": 10}\n'),
    ]


def test_a_checkpoint_that_was_whole_but_for_its_record_when_the_child_was_killed_is_kept(
    first: Attempt, tmp_path: Path
) -> None:
    path = first.save(10)
    record = commit_record(path)
    record.rename(f"{record}.next")
    first.publisher.publish()
    assert not first.stored.checkpoint(10).exists()
    first.publisher.close("ended")
    first.publisher.publish()
    assert first.publisher.checkpoint is not None
    second = Attempt(tmp_path, 2)
    assert second.restored.checkpoint is not None
    assert second.restored.checkpoint.step == 10


def test_half_a_checkpoint_of_a_killed_worker_is_neither_taken_nor_kept(
    first: Attempt, tmp_path: Path
) -> None:
    for step in (10, 20):
        first.save(step)
    first.publisher.publish()
    commit_record(first.stored.checkpoint(20)).unlink()
    second = Attempt(tmp_path, 2)
    assert second.restored.checkpoint is not None
    assert second.restored.checkpoint.step == 10
    assert not second.run.checkpoint(20).exists()
    second.publisher.publish()
    assert not second.stored.checkpoint(20).exists()
    second.save(20)
    second.publisher.publish()
    assert commit.verify(second.stored.checkpoint(20)).attempt == 2


def test_half_of_the_first_checkpoint_is_known_for_that_where_the_program_keeps_records(
    first: Attempt, tmp_path: Path
) -> None:
    first.save(10)
    first.publisher.publish()
    commit_record(first.stored.checkpoint(10)).unlink()
    second = Attempt(tmp_path, 2, keeps_records=True)
    assert second.restored.checkpoint is None
    assert not second.run.checkpoint(10).exists()
    second.publisher.publish()
    assert not second.stored.checkpoint(10).exists()


def test_checkpoints_of_a_program_that_keeps_no_records_are_kept(
    first: Attempt, tmp_path: Path
) -> None:
    for step in (10, 20):
        first.run.checkpoint(step).write_bytes(b"mine")
    first.publisher.close("ended")
    first.publisher.publish()
    second = Attempt(tmp_path, 2)
    second.publisher.publish()
    assert second.run.checkpoint(20).exists()
    assert second.stored.checkpoint(10).exists()


def test_a_rewound_curve_replaces_the_published_one(first: Attempt, tmp_path: Path) -> None:
    first.log(0, 10, 20)
    first.publisher.publish()
    second = Attempt(tmp_path, 2)
    rewound = second.run.metrics.with_name("new")
    rewound.write_text('{"step": 0}\n')
    rewound.replace(second.run.metrics)
    second.log(10, 20, 30)
    second.publish()
    steps = [json.loads(line)["step"] for line in second.stored.metrics.read_text().splitlines()]
    assert steps == [0, 10, 20, 30]


def test_a_checkpoint_in_storage_always_has_its_metrics_beside_it(
    first: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child logs a row and saves at each write and each listing of a pass."""
    steps = iter(range(1000))
    put, append = FileStorage.put, FileStorage.append
    seen = []

    def child_goes_on() -> None:
        first.log(step := next(steps))
        first.save(step)

    def check() -> None:
        metrics = first.stored.metrics
        rows = metrics.read_text().splitlines() if metrics.exists() else []
        logged = {json.loads(row)["step"] for row in rows}
        for record, _ in commit.committed(first.stored.checkpoints):
            assert record.step in logged, "a checkpoint came before its metrics"
            seen.append(record.step)

    def spy_put(self: FileStorage, *args: object, **options: object) -> None:
        child_goes_on()
        put(self, *args, **options)  # type: ignore[arg-type]
        check()

    def spy_append(self: FileStorage, *args: object) -> None:
        child_goes_on()
        append(self, *args)  # type: ignore[arg-type]
        check()

    @contextlib.contextmanager
    def spy_scandir(path: Path) -> Iterator[list[os.DirEntry[str]]]:
        child_goes_on()
        with os.scandir(path) as found:
            yield sorted(found, key=lambda one: one.name)  # logs before checkpoints

    monkeypatch.setattr(FileStorage, "put", spy_put)
    monkeypatch.setattr(FileStorage, "append", spy_append)
    monkeypatch.setattr(look, "os", SimpleNamespace(**{**vars(os), "scandir": spy_scandir}))
    child_goes_on()
    for _ in range(3):
        first.publisher.publish()
    assert len(set(seen)) > 5


def test_data_goes_before_its_record_and_an_uncommitted_checkpoint_does_not_go(
    first: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    put = FileStorage.put

    def spy(self: FileStorage, key: str, *args: object, **options: object) -> None:
        order.append(key.rsplit("/", 1)[1])
        put(self, key, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FileStorage, "put", spy)
    first.run.checkpoint(20).write_bytes(b"half")
    first.save(10)
    first.run.checkpoints.joinpath(".checkpoint_step_30.pt.1.tmp").write_bytes(b"draft")
    first.publisher.publish()
    moment = "000001-000001.json"
    assert order == ["checkpoint_step_10.pt", "checkpoint_step_10.pt.json", moment]
    assert first.stored.latest_checkpoint.readlink().name == "checkpoint_step_10.pt"


def test_what_the_child_retired_is_retired_in_storage_too(first: Attempt, tmp_path: Path) -> None:
    first.save(10)
    first.publisher.publish()
    second = Attempt(tmp_path, 2)
    second.save(20)
    commit.discard(second.run.checkpoint(10))
    second.publisher.publish()
    assert [record.step for record, _ in commit.committed(second.stored.checkpoints)] == [20]
    assert sorted(p.name for p in second.stored.checkpoints.iterdir()) == [
        "checkpoint_latest.pt", "checkpoint_step_20.pt", "checkpoint_step_20.pt.json",
    ]  # fmt: skip


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_is_taken(
    first: Attempt, tmp_path: Path
) -> None:
    first.save(10)
    first.save(20)
    first.publisher.publish()
    damaged = first.stored.checkpoint(20)
    damaged.unlink()
    damaged.write_bytes(b"weighty")
    second = Attempt(tmp_path, 2)
    assert second.restored.checkpoint is not None
    assert second.restored.checkpoint.step == 10
    assert second.run.latest_checkpoint.readlink().name == "checkpoint_step_10.pt"
    second.publish()
    assert not second.stored.checkpoint(20).exists()
    assert not commit_record(second.stored.checkpoint(20)).exists()
    assert second.stored.checkpoint(20).with_suffix(".pt.corrupt").read_bytes() == b"weighty"


def test_the_checkpoint_marked_best_stays_marked(first: Attempt, tmp_path: Path) -> None:
    first.save(10)
    first.run.best_checkpoint.symlink_to("checkpoint_step_10.pt")
    first.save(20)
    first.publisher.publish()
    second = Attempt(tmp_path, 2)
    assert second.run.best_checkpoint.readlink().name == "checkpoint_step_10.pt"
    assert second.run.latest_checkpoint.readlink().name == "checkpoint_step_20.pt"


def test_a_link_of_the_users_own_that_leads_elsewhere_stays_here(first: Attempt) -> None:
    first.save(10)
    (first.run.checkpoints / "mine").symlink_to("../../somewhere")
    first.publisher.publish()
    assert first.stored.latest_checkpoint.is_symlink()
    assert not (first.stored.checkpoints / "mine").is_symlink()


def test_every_line_is_marked_with_its_attempt_and_none_is_torn(
    first: Attempt, tmp_path: Path
) -> None:
    first.publisher.add_line("starts")
    first.prints("one\ntw")
    first.publisher.publish()
    first.prints("o\n\nthree")
    first.publisher.publish()
    first.publisher.close("ended")
    first.publisher.publish()
    second = Attempt(tmp_path, 2)
    second.prints("four\n")
    second.publisher.publish()
    assert second.stored.output_log.read_text().splitlines() == [
        "[1] --- starts", "[1] one", "[1] two", "[1] ", "[1] three", "[1] --- ended", "[2] four",
    ]  # fmt: skip


def test_a_log_that_is_written_anew_under_its_name_replaces_the_published_one(
    first: Attempt, tmp_path: Path
) -> None:
    log = first.run.logs / "mine.log"
    log.write_text("epoch 1 loss 9\n")
    first.publisher.publish()
    log.write_text("epoch 2 loss 8, better\n")
    first.publish()
    stored = first.stored.logs / "mine.log"
    assert stored.read_text() == "epoch 2 loss 8, better\n"
    second = Attempt(tmp_path, 2)
    (second.run.logs / "mine.log").write_text("epoch 3 loss 7, better still\n")
    second.publish()
    assert stored.read_text() == "epoch 3 loss 7, better still\n"


def test_a_file_that_storage_does_not_take_holds_up_no_other_and_is_named(first: Attempt) -> None:
    (first.stored.root / "out").mkdir()
    (first.stored.root / "out" / "x").write_text("by somebody else")
    (first.run.root / "out").write_text("a file")
    (first.run.root / "zzz").write_text("after it")
    first.save(10)
    first.publish()
    assert (first.stored.root / "zzz").read_text() == "after it"
    assert first.publisher.checkpoint is not None
    assert first.publisher.checkpoint.step == 10
    assert list(first.publisher.refused) == [Path("out")]


def test_a_file_may_become_a_folder_and_a_folder_a_file(
    first: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "FILLING_SECONDS", 0.0)
    out = first.run.root / "out"
    out.write_text("a file")
    first.publish()
    out.unlink()
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "x").write_text("in a folder")
    first.publish()
    assert (first.stored.root / "out" / "sub" / "x").read_text() == "in a folder"
    shutil.rmtree(out)
    out.write_text("a file again")
    first.publish()
    assert (first.stored.root / "out").read_text() == "a file again"
    assert (Attempt(tmp_path, 2).run.root / "out").read_text() == "a file again"


@pytest.mark.parametrize("name", ["logs/output.log", ".fence", ".record.json"])
def test_a_file_by_a_name_of_the_services_own_replaces_nothing_and_is_named(
    first: Attempt, tmp_path: Path, name: str
) -> None:
    first.prints("from the first attempt\n")
    first.publisher.publish()
    second = Attempt(tmp_path, 2)
    (second.run.root / name).write_text("99")
    for line in ("one\n", "two\n"):
        second.prints(line)
        second.publisher.publish()
    text = "[1] from the first attempt\n[2] one\n[2] two\n"
    assert second.stored.output_log.read_text() == text
    assert list(second.publisher.refused) == [Path(name)]
    second.publisher.add_line(f"not saved: {name}")
    second.publisher.publish()


@pytest.mark.parametrize("directory", ["", "checkpoints/"])
def test_a_file_whose_name_is_no_text_is_named_and_ends_nothing(
    first: Attempt, directory: str
) -> None:
    name = f"{directory}caf{os.fsdecode(bytes([0xE9]))}.txt"
    (first.run.root / name).write_text("by a program of long ago")
    (first.run.root / "zzz").write_text("after it")
    first.save(10)
    first.publish()
    (refused,) = first.publisher.refused
    assert str(refused) == name
    first.publisher.add_line(f"not saved: {refused}")
    first.publisher.publish()
    assert (first.stored.root / "zzz").read_text() == "after it"
    assert first.stored.checkpoint(10).exists()
    assert "not saved: " in first.stored.output_log.read_text()
    # One that an earlier version kept cannot be told of either.
    (first.stored.root / name).write_text("by an earlier version")
    assert all(file.key.encode() for file in first.storage.list("job"))


def test_hidden_files_and_checkpoints_without_a_record_are_kept_in_the_end(first: Attempt) -> None:
    (first.run.root / ".hydra").mkdir()
    (first.run.root / ".hydra" / "config.yaml").write_text("a: 1")
    first.run.checkpoint(10).write_bytes(b"plain torch.save")
    first.publisher.close("ended")
    first.publisher.publish()
    assert (first.stored.root / ".hydra" / "config.yaml").read_text() == "a: 1"
    assert first.stored.checkpoint(10).read_bytes() == b"plain torch.save"


def test_what_nfs_keeps_of_a_removed_file_is_no_file_of_the_run(first: Attempt) -> None:
    (first.run.root / ".nfs0000000000a3f1c200000001").write_bytes(b"removed, and still open")
    (first.run.root / "kept").write_bytes(b"kept")
    first.publisher.close("ended")
    first.publisher.publish()
    assert {file.key for file in first.storage.list("job")} == {"job/kept", "job/logs/output.log"}
    assert first.publisher.not_kept() == []


def test_an_outage_of_storage_loses_no_line(
    first: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("away")

    first.publisher.add_line("starts")
    first.prints("one\n")
    with monkeypatch.context() as away:
        away.setattr(FileStorage, "append", fail)
        for _ in range(2):
            with pytest.raises(OSError, match="away"):
                first.publisher.publish()
    first.prints("two\n")
    first.publisher.publish()
    assert first.stored.output_log.read_text() == "[1] --- starts\n[1] one\n[1] two\n"


def test_an_overtaken_attempt_publishes_nothing(first: Attempt, tmp_path: Path) -> None:
    first.log(0)
    first.publisher.publish()
    Attempt(tmp_path, 2)
    before = {p: p.stat().st_mtime_ns for p in first.stored.root.rglob("*") if p.is_file()}
    first.log(10)
    first.save(10)
    first.prints("zombie\n")
    with pytest.raises(OvertakenError):
        first.publisher.publish()
    after = {p: p.stat().st_mtime_ns for p in first.stored.root.rglob("*") if p.is_file()}
    assert after == before


def test_what_a_killed_worker_left_is_removed_and_what_a_live_one_holds_is_not(
    tmp_path: Path,
) -> None:
    left, live = (Scratch(tmp_path / "scratch", "job-23456789", n) for n in (1, 2))
    left.run.checkpoints.mkdir(parents=True)
    with live.held():
        remove_leftovers(tmp_path / "scratch")
        assert not left.root.exists()
        assert live.run.checkpoints.is_dir()
    assert not list((tmp_path / "scratch").iterdir())
    left.run.checkpoints.mkdir(parents=True)
    remove_leftovers(tmp_path / "scratch")
    assert not list((tmp_path / "scratch").iterdir())


def test_what_the_child_of_a_killed_worker_makes_after_that_is_removed_too(
    tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    left, live = (Scratch(tmp_path / "scratch", "job-23456789", n) for n in (1, 2))
    tidying = ScratchCleaner(tmp_path / "scratch", seconds=0.01)
    tidying.start()
    try:
        with live.held():
            for _ in range(3):
                with contextlib.suppress(FileNotFoundError):  # half of it was removed meanwhile
                    left.run.checkpoints.mkdir(parents=True)
                wait_until(lambda: not left.root.exists(), what="the end of what was left")
            assert live.run.checkpoints.is_dir()
    finally:
        tidying.stop()


def test_nothing_else_is_removed_where_the_scratch_directory_is_a_whole_disk(
    tmp_path: Path,
) -> None:
    disk = tmp_path / "disk"
    others = ["thesis/chapters/1.tex", "data/1/train.bin", "run-23456789/1/weights.pt",
              "run-23456789/best/run-23456789/weights.pt"]  # fmt: skip
    for name in others:
        (disk / name).parent.mkdir(parents=True)
        (disk / name).write_text("dear to somebody")
    (disk / "empty").mkdir()
    left = Scratch(disk, "job-23456789", 1)
    left.run.checkpoints.mkdir(parents=True)
    left.output.write_text("hello")
    remove_leftovers(disk)
    assert not left.root.parent.exists()
    assert all((disk / name).exists() for name in [*others, "empty"])


def test_a_pass_over_an_unchanged_run_writes_nothing(first: Attempt) -> None:
    first.log(0)
    first.save(0)
    first.publisher.publish()
    moment = time.time_ns()
    first.publisher.publish()
    assert all(p.stat().st_mtime_ns < moment for p in first.stored.root.rglob("*"))


class Asleep:
    """A publisher whose process may stand still, and what it asks when it wakes up."""

    def __init__(self, attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        self.asked: list[float] = []
        self.answers = True
        self.pass_seconds = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self._publisher = Publisher(
            attempt.storage, attempt.scratch, attempt.fence, attempt.restored,
            max_pause=15.0, confirm=self._confirm, invalid=self._take_time,
        )  # fmt: skip

    def _confirm(self, since: float) -> bool:
        self.asked.append(self.now - since)
        return self.answers

    def _take_time(self) -> bool:
        self.now += self.pass_seconds
        return False

    def publishes_after(self, seconds: float) -> bool:
        """Whether it publishes when it has stood still for so long."""
        self.now += seconds
        try:
            self._publisher.publish()
        except StorageError:
            return False
        return True


def test_only_who_stood_still_asks_whether_the_job_is_still_its_own(
    first: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may be away, and asking would hold up each pass for as long as it takes to notice."""
    asleep = Asleep(first, monkeypatch)
    assert all(asleep.publishes_after(seconds) for seconds in (1.0, 14.0, 14.0))
    assert asleep.asked == []
    assert asleep.publishes_after(16.0)
    assert asleep.publishes_after(1.0)
    assert asleep.asked == [16.0]


def test_who_stood_still_publishes_nothing_without_an_answer_but_waits_no_longer_than_that(
    first: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = Asleep(first, monkeypatch)
    asleep.answers = False
    assert [asleep.publishes_after(seconds) for seconds in (16.0, 1.0, 13.0)] == [False] * 3
    assert asleep.publishes_after(1.0), "nobody may answer for hours"
    assert asleep.asked == [16.0, 17.0, 30.0, 31.0]
    assert asleep.publishes_after(1.0)
    assert len(asleep.asked) == 4


def test_who_stood_still_in_the_middle_of_a_pass_asks_before_the_next(
    first: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = Asleep(first, monkeypatch)
    asleep.pass_seconds = 16.0
    assert asleep.publishes_after(1.0)
    assert asleep.asked == []
    assert asleep.publishes_after(0.0)
    assert asleep.asked == [16.0]


def test_what_a_rewind_moves_aside_is_published_before_it_is_taken_away(
    first: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever dies between the two leaves a row in both files, and in none never."""
    first.log(*range(10))
    first.publisher.publish()
    MetricsLogger(first.run.logs).rewind(6)
    written: list[str] = []
    put = first.storage.put

    def note(key: str, source: Path, *args: Any, **kwargs: Any) -> None:
        written.append(source.name)
        put(key, source, *args, **kwargs)

    monkeypatch.setattr(first.storage, "put", note)
    append = first.storage.append

    def note_append(key: str, *args: Any, **kwargs: Any) -> None:
        written.append(Path(key).name)
        append(key, *args, **kwargs)

    monkeypatch.setattr(first.storage, "append", note_append)
    first.publish()
    names = [name for name in written if name.startswith("metrics")]
    assert names == ["metrics.superseded.jsonl", "metrics.jsonl"]
