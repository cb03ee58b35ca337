"""The output log of a run, from what its program prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monitoring.paths import RunPaths
from monitoring.storage.base import Fence
from monitoring.storage.directory import FileStorage
from worker.files.logs import output as output_module
from worker.files.logs.output import OutputLog, last_lines
from worker.files.pace import Pace
from worker.files.scratch import Scratch


class Child:
    """What a program prints, and where it is stored."""

    def __init__(self, base: Path) -> None:
        self.storage = FileStorage(base / "store")
        self.storage.root.mkdir()
        self.stored = RunPaths(base / "store" / "job")
        self.scratch = Scratch(base / "scratch", "job", 1)
        self.scratch.root.mkdir(parents=True)

    def prints(self, text: str) -> None:
        with self.scratch.output.open("a") as file:
            file.write(text)

    def log(self, *, attempt: int = 1, **options: Any) -> OutputLog:
        return OutputLog(
            self.storage,
            self.scratch,
            Fence("job", attempt),
            Pace(appends_in_place=True),
            **options,
        )


@pytest.fixture
def child(tmp_path: Path) -> Child:
    return Child(tmp_path)


@pytest.mark.parametrize("rewritten_seconds", [0.0, 3600.0])
def test_of_a_progress_bar_the_log_gets_its_state_now_and_then_and_the_last_one(
    child: Child, rewritten_seconds: float
) -> None:
    output = child.log(rewritten_seconds=rewritten_seconds)
    log = child.stored.output_log
    child.prints("begins\r\n\r 1%|#\r 2%|##\r 3%|#")
    output.publish()
    assert log.read_text() == "[1] begins\n[1]  2%|##\n", "not the state that is half written"
    child.prints("##\r 4%|####\r 5")
    output.publish()
    later = "[1]  4%|####\n" if rewritten_seconds == 0 else ""
    assert log.read_text() == "[1] begins\n[1]  2%|##\n" + later
    child.prints("%|#####\r100%|##########\nTraceback")
    output.close("ended")
    output.publish()
    assert log.read_text().splitlines()[-3:] == [
        "[1] 100%|##########", "[1] Traceback", "[1] --- ended",
    ]  # fmt: skip


def test_a_line_without_an_end_is_shown_and_continued(child: Child) -> None:
    patient, output = child.log(unfinished_seconds=3600), child.log(unfinished_seconds=0)
    log = child.stored.output_log
    child.prints("one\nloading .")
    patient.publish()
    patient.publish()
    assert log.read_text() == "[1] one\n"
    log.unlink()
    output.publish()
    assert log.read_text() == "[1] one\n[1] loading ."
    child.prints("..")
    output.publish()
    assert log.read_text() == "[1] one\n[1] loading ..."
    output.add_line("a word of the supervisor")
    child.prints(" done\ntwo\nthree")
    output.publish()
    output.close("ended")
    output.publish()
    assert log.read_text().splitlines() == [
        "[1] one", "[1] loading ...", "[1] --- a word of the supervisor", "[1]  done", "[1] two",
        "[1] three", "[1] --- ended",
    ]  # fmt: skip


def test_an_attempt_that_was_killed_within_a_line_leaves_the_next_one_a_new_line(
    child: Child,
) -> None:
    child.storage.append("job/logs/output.log", 0, b"[1] half a", Fence("job", 1))
    output = child.log(attempt=2)
    output.add_line("starts")
    output.publish()
    assert child.stored.output_log.read_text() == "[1] half a\n[2] --- starts\n"


def test_of_a_long_log_the_newest_part_stays_and_the_one_before_it(child: Child) -> None:
    output = child.log(log_bytes=1000)
    for number in range(300):
        child.prints(f"{number:03d}\n")
        output.publish()
    log = child.stored.output_log.read_text().splitlines()
    earlier = child.stored.earlier_output_log.read_text().splitlines()
    assert log.pop(0) == earlier.pop(0) == "[1] --- what came before is in output.1.log"
    assert (earlier + log)[-1] == "[1] 299"
    assert earlier + log == [f"[1] {n:03d}" for n in range(300 - len(earlier + log), 300)]
    assert len(earlier) == (1000 - 44) // 8, "1,000 bytes of lines of eight bytes"


@pytest.mark.parametrize("can_punch", [True, False])
def test_a_flood_of_output_fills_neither_the_disk_nor_the_log(
    child: Child, monkeypatch: pytest.MonkeyPatch, can_punch: bool
) -> None:
    for name, size in {
        "_BACKLOG_BYTES": 1 << 20,
        "_KEPT_BYTES": 1 << 16,
        "_BURST_BYTES": 3 << 20,
        "_BYTES_PER_SECOND": 0,
    }.items():
        monkeypatch.setattr(output_module, name, size)
    if not can_punch:
        monkeypatch.setattr(output_module, "_punch_hole", lambda *_: False)
    output = child.log()
    for number in range(100):
        child.prints(f"{number:07d}\n" * (1 << 17))  # 1 MiB
        output.trim()
        if number % 10 == 0:
            output.publish()
        assert child.scratch.output.stat().st_blocks * 512 <= 4 << 20
    child.prints("the last line\n")
    output.close("ended")
    output.publish()
    text = child.stored.output_log.read_text()
    assert len(text) < 10 << 20
    assert text.endswith("[1] the last line\n[1] --- ended\n")
    assert " bytes of output are left out" in text


def test_the_last_lines_of_a_program_are_those_that_a_terminal_would_show(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.write_bytes(b"x" * 20_000 + b"\none\r\n" + b"\r 1%" * 100 + b"\r100%\nOSError: \xff\n")
    assert last_lines(output)[1:] == ["one", "100%", "OSError: \N{REPLACEMENT CHARACTER}"]
    output.write_bytes(b"")
    assert last_lines(output) == []
