"""The progress of an attempt, read from its output and its files; the last that is said counts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.model.spec import JobSpec
from monitoring.metrics.logger import MetricsLogger
from monitoring.storage.base import Fence
from monitoring.storage.open import open_storage
from tests.event_files import HEAD, event, record, simple, write
from worker.files.logs.row_file import RowFile
from worker.files.look import look
from worker.files.pace import Pace
from worker.files.scratch import Restored, Scratch
from worker.progress.reader import ProgressReader, Reading

EVENTS = "work/runs/events.out.tfevents.1"
CSV = "work/lightning_logs/version_0/metrics.csv"
PROGRESS = {"step": r"step (\d+)", "loss": r"loss (\S+)", "total": r"of (\d+)"}


class Run:
    """A run directory that is read in turns, attempt by attempt."""

    def __init__(self, root: Path) -> None:
        self.storage = open_storage((root / "storage").as_uri())
        self.root = root
        self.number = 0

    def attempt(self, progress: Mapping[str, str] | None = None, **changes: Any) -> None:
        """Begins an attempt with what the one before left."""
        before = self.scratch if self.number else None
        self.number += 1
        self.scratch = Scratch(self.root, "job", self.number)
        self.scratch.root.mkdir(parents=True)
        if before is not None:
            before.run.root.rename(self.scratch.run.root)
        self.scratch.workspace.mkdir(parents=True, exist_ok=True)
        fence = Fence("job", self.number)
        self.storage.seize(fence)
        stored = Path("logs/metrics.read.jsonl")
        pace = Pace(appends_in_place=True)
        self.file = RowFile(self.storage, self.scratch.rows, stored, fence, pace)
        spec = {"name": "job", "command": ["t"], "progress": dict(progress or {}), **changes}
        self.reader = ProgressReader(
            JobSpec.model_validate(spec), self.scratch,
            replace(Restored(None, {}, {}), look=self.look()), self.file, self.look,
        )  # fmt: skip

    def look(self) -> Any:
        return look(self.scratch.run.root, lambda *_: False)

    def path(self, name: str) -> Path:
        path = self.scratch.run.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def prints(self, *lines: str) -> None:
        with self.scratch.output.open("a") as file:
            file.writelines(lines)

    def read(self) -> Reading:
        self.file.publish()
        self.reader.advance()
        self.file.publish()
        return self.reader.reading

    def rows(self) -> list[dict[str, Any]]:
        key = "job/logs/metrics.read.jsonl"
        if self.storage.stat(key) is None:
            return []
        return [json.loads(line) for line in self.storage.read(key).splitlines()]

    def curve(self, name: str = "loss") -> list[tuple[int, float]]:
        return [(row["step"], row[name]) for row in self.rows() if name in row]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path)
    run.attempt()
    return run


@pytest.fixture
def printing(tmp_path: Path) -> Run:
    run = Run(tmp_path)
    run.attempt(PROGRESS)
    return run


def trainer_state(run: Run, step: int, losses: Mapping[int, float], total: int = 100) -> None:
    log = [{"loss": loss, "step": s, "epoch": s / 10} for s, loss in losses.items()]
    state = {"global_step": step, "max_steps": total, "log_history": log}
    run.path(f"work/results/checkpoint-{step}/trainer_state.json").write_text(json.dumps(state))


# Output


def test_what_is_on_a_line_belongs_to_its_step_or_the_one_before(printing: Run) -> None:
    printing.prints("loss 9 of nothing\n", "step 1 of 50\n", "loss 0.5\n", "step 2 loss 0.25\r")
    printing.prints("loss 0.125 is better\nstep 3 loss 0.0")
    reading = printing.read()
    assert printing.curve() == [(1, 0.5), (2, 0.125)]
    assert (reading.step, reading.total, reading.loss, reading.source) == (2, 50, 0.125, "output")
    printing.prints("625\n")
    assert printing.read().loss == 0.0625


def test_a_gigabyte_in_one_line_is_no_line(printing: Run) -> None:
    printing.prints("step 1 loss 1\n")
    printing.read()
    with printing.scratch.output.open("ab") as file:
        file.truncate(1 << 30)
    printing.prints("x" * 100_000, "step 2 loss 2\n", "step 3 loss 3\n")
    for _ in range(3):
        printing.read()
    assert printing.curve() == [(1, 1), (2, 2), (3, 3)]
    os.truncate(printing.scratch.output, 0)
    printing.prints("step 4 loss 4\n")
    printing.read()
    assert printing.curve()[-1] == (4, 4)


def test_colours_and_broken_letters_do_not_matter(printing: Run) -> None:
    with printing.scratch.output.open("ab") as file:
        file.write(b"\xff\x1b[1mstep\x1b[0m \x1b[32m7\x1b[0m loss 1.5\n")
    printing.read()
    assert printing.curve() == [(7, 1.5)]


def test_a_last_line_without_an_end_counts_when_the_program_has_ended(printing: Run) -> None:
    printing.prints("step 1 loss 1\nstep 2 loss 2")
    printing.read()
    printing.reader.finish(printing.look)
    printing.file.publish(closing=True)
    assert printing.curve() == [(1, 1), (2, 2)]
    assert printing.reader.reading.step == 2


def test_a_loss_that_is_no_number_is_known(printing: Run) -> None:
    printing.prints("step 1 loss nan\nstep 2 loss 1\n")
    assert printing.read().diverged
    assert printing.curve() == [(1, "NaN"), (2, 1)]


# Files


def test_tensorboard_is_read_as_it_grows(run: Run) -> None:
    write(run.path(EVENTS), [(1, "Loss/train", 0.5), (1, "lr", 0.1), (2, "Loss/train", 0.25)])
    reading = run.read()
    assert (reading.source, reading.step, reading.loss) == ("tensorboard", 2, 0.25)
    assert reading.step_seconds == 1.0
    data = event(3, {"Loss/train": simple(0.125)})
    with run.path(EVENTS).open("ab") as file:
        file.write(data[:-3])
        file.flush()
        assert run.read().step == 2
        file.write(data[-3:])
    run.read()
    assert run.curve("Loss/train") == [(1, 0.5), (2, 0.25), (3, 0.125)]
    assert run.rows()[0] == {"step": 1, "timestamp": 1001.0, "Loss/train": 0.5,
                             "lr": pytest.approx(0.1)}  # fmt: skip


def test_a_damaged_file_of_events_is_read_up_to_the_damage(run: Run) -> None:
    good = HEAD + event(1, {"a": simple(1)})
    run.path(EVENTS).write_bytes(good + bytes(40) + event(2, {"a": simple(2)}))
    run.read()
    run.read()
    assert run.curve("a") == [(1, 1)]


def test_an_image_between_scalars_is_skipped(run: Run) -> None:
    with run.path(EVENTS).open("wb") as file:
        file.write(HEAD + record(bytes(1 << 20)) + event(2, {"a": simple(2)}))
    for _ in range(3):
        run.read()
    assert run.curve("a") == [(2, 2)]


def test_two_writers_of_one_name_are_two_curves(run: Run) -> None:
    for folder in ("train", "validation"):
        write(run.path(f"work/logs/{folder}/events.out.tfevents.1"), [(1, "epoch_loss", 0.5)])
    reading = run.read()
    assert run.curve("epoch_loss") == run.curve("validation/epoch_loss") == [(1, 0.5)]
    assert reading.loss == 0.5


def test_a_csv_with_a_new_column_is_read_on(run: Run) -> None:
    run.path(CSV).write_text("epoch,step,train_loss\n0,9,0.5\n0,19,0.25\n")
    reading = run.read()
    assert (reading.source, reading.step, reading.loss) == ("metrics_csv", 19, 0.25)
    run.path(CSV).write_text("epoch,step,train_loss,val_loss\n0,9,0.5,\n0,19,0.25,\n0,19,,0.75\n")
    run.read()
    with run.path(CSV).open("a") as file:
        file.write("1,29,0.125,\n1,39")
    assert run.read().step == 29
    assert run.curve("train_loss") == [(9, 0.5), (19, 0.25), (29, 0.125)]
    assert run.curve("val_loss") == [(19, 0.75)]


def test_a_table_without_steps_is_none_of_ours(run: Run) -> None:
    run.path("work/metrics.csv").write_text("time,loss\n1,2\n")
    assert run.read() == Reading()


def test_a_trainers_state_repeats_what_was_before(run: Run) -> None:
    trainer_state(run, 10, {5: 0.5, 10: 0.25})
    run.read()
    trainer_state(run, 20, {5: 0.5, 10: 0.25, 15: 0.125, 20: 0.0625})
    reading = run.read()
    assert run.curve() == [(5, 0.5), (10, 0.25), (15, 0.125), (20, 0.0625)]
    assert (reading.step, reading.total, reading.loss) == (20, 100, 0.0625)
    assert reading.step_seconds is not None


def test_an_older_state_adds_nothing(run: Run) -> None:
    for step in (10, 20, 10, 30):
        trainer_state(run, step, {n: n / 8 for n in range(10, step + 1, 10)})
        run.read()
    assert run.curve() == [(10, 1.25), (20, 2.5), (30, 3.75)]


def test_a_state_that_is_being_written_is_read_when_it_is_whole(run: Run) -> None:
    path = run.path("work/results/checkpoint-5/trainer_state.json")
    path.write_text('{"global_step": 5, "log_his')
    assert run.read() == Reading()
    path.write_text('{"global_step": 5, "max_steps": 9, "log_history": []}')
    assert (run.read().step, run.reader.reading.total) == (5, 9)


@pytest.mark.parametrize(
    "text", ["[]", '{"log_history": 7}', '{"log_history": [7, {"step": "x"}]}', "[" * 100_000,
             '{"global_step": 1e400, "max_steps": true}'],
)  # fmt: skip
def test_another_file_of_that_name_does_no_harm(run: Run, text: str) -> None:
    run.path("work/trainer_state.json").write_text(text)
    assert run.read() == Reading()


# Precedence


def test_tensorboard_tells_how_far_a_trainer_is_since_its_checkpoint(run: Run) -> None:
    trainer_state(run, 10, {10: 0.5})
    write(run.path(EVENTS), [(15, "train/loss", 0.25)])
    reading = run.read()
    assert (reading.step, reading.total, reading.loss) == (15, 100, 0.25)
    write(run.path(EVENTS), [(10_000, "train/loss", 0.125)])  # these are no steps of the Trainer
    assert (run.read().step, run.reader.reading.source) == (10, "trainer_state")


def test_the_better_source_of_a_curve_counts(run: Run) -> None:
    write(run.path(EVENTS), [(1, "train_loss", 1), (2, "train_loss", 1), (3, "train_loss", 1)])
    run.read()
    run.path(CSV).write_text("step,train_loss\n2,0.5\n")
    run.read()
    write(run.path(EVENTS), [(4, "train_loss", 1)])
    assert run.read().source == "metrics_csv"
    assert run.curve("train_loss") == [(1, 1), (2, 0.5)]


def test_a_program_that_logs_with_the_library_says_all_itself(run: Run) -> None:
    with MetricsLoggerOf(run) as logger:
        logger.log_metrics(1, {"loss": 1.0})
    write(run.path(EVENTS), [(1, "loss", 0.5)])
    assert run.read() == Reading()
    assert run.rows() == []


def test_a_file_of_that_name_in_another_format_is_none_of_the_librarys(run: Run) -> None:
    run.scratch.run.logs.mkdir()
    run.scratch.run.metrics.write_text('{"epoch": 1}\n' * 10_000)
    write(run.path(EVENTS), [(1, "loss", 0.5)])
    assert run.read().step == 1


def test_a_file_that_became_a_pipe_holds_up_nobody(run: Run) -> None:
    write(run.path(EVENTS), [(1, "loss", 0.5)])
    looked = run.look()
    run.reader._look = lambda: looked
    run.path(EVENTS).unlink()
    os.mkfifo(run.path(EVENTS))
    assert run.read() == Reading()


class MetricsLoggerOf:
    """A logger of the run, which is closed in the end."""

    def __init__(self, run: Run) -> None:
        self._logger = MetricsLogger(run.scratch.run.logs)

    def __enter__(self) -> MetricsLogger:
        return self._logger

    def __exit__(self, *_: object) -> None:
        self._logger.close()


# Resume


def test_steps_that_are_made_again_count_as_they_were_made_last(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.attempt(PROGRESS)
    run.prints(*(f"step {step} loss 1\n" for step in range(1, 6)))
    run.read()
    run.attempt(PROGRESS)
    assert run.read() == Reading()
    run.prints("step 4 loss 2\nstep 5 loss 2\nstep 6 loss 2\n")
    run.read()
    assert run.curve() == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]


def test_only_the_curve_that_goes_back_is_cut(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.attempt()
    points = [(10, "loss", 1.0), (10, "lr", 1), (1, "epoch", 1), (20, "loss", 1), (20, "lr", 1)]
    write(run.path("work/runs/events.out.tfevents.1"), points)
    run.read()
    run.attempt()
    write(run.path("work/runs/events.out.tfevents.2"), [(15, "loss", 2), (30, "lr", 2)])
    reading = run.read()
    assert (reading.step, reading.loss) == (30, 2)
    assert run.curve("loss") == [(10, 1), (15, 2)]
    assert run.curve("lr") == [(10, 1), (20, 1), (30, 2)]
    assert run.curve("epoch") == [(1, 1)]


def test_a_folder_for_each_attempt_is_one_curve(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for number, steps in ((1, (1, 2, 3)), (2, (3, 4))):
        run.attempt()
        run.path(f"work/lightning_logs/version_{number}/metrics.csv").write_text(
            "step,loss\n" + "".join(f"{step},{number}\n" for step in steps)
        )
        run.read()
    assert run.curve() == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert {name for row in run.rows() for name in row} == {"step", "timestamp", "loss"}


def test_a_csv_that_an_attempt_begins_anew_is_new(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.attempt()
    run.path(CSV).write_text("step,loss\n1,1\n2,1\n3,1\n")
    run.read()
    run.attempt()
    run.read()
    run.path(CSV).unlink()
    run.path(CSV).write_text("step,loss\n2,2\n")
    assert run.read().step == 2
    assert run.curve() == [(1, 1), (2, 2)]


def test_what_a_killed_worker_had_not_read_is_read_later(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.attempt()
    write(run.path(EVENTS), [(1, "loss", 1), (2, "loss", 1)])
    run.read()
    write(run.path(EVENTS), [(3, "loss", 1)])
    run.attempt()
    assert run.read() == Reading()  # this attempt has made no step
    assert run.curve() == [(1, 1), (2, 1), (3, 1)]
    write(run.path(f"{EVENTS}.2"), [(3, "loss", 2)])
    assert run.read().step == 3
    assert run.curve() == [(1, 1), (2, 1), (3, 2)]


def test_a_trainer_that_goes_back_to_an_older_checkpoint_is_followed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.attempt()
    trainer_state(run, 10, {10: 1})
    run.read()
    trainer_state(run, 20, {10: 1, 20: 1})
    run.read()
    run.attempt()
    assert run.read() == Reading()
    trainer_state(run, 20, {10: 1, 20: 2})
    assert run.read().step == 20
    assert run.curve() == [(10, 1), (20, 2)]


# Limits


def test_rows_wait_for_storage_and_none_is_lost(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.attempt(PROGRESS)
    run.prints("step 1 loss 1\n")
    run.read()
    run.attempt(PROGRESS)
    run.prints("step 2 loss 2\n")
    run.reader.advance()  # storage has not answered yet
    assert run.reader.reading.step == 2
    run.reader.finish(run.look)
    run.file.publish(closing=True)
    assert run.curve() == [(1, 1), (2, 2)]


def test_while_storage_is_away_no_more_waits_than_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.progress.reader._MOST_WAITING", 3)
    run = Run(tmp_path)
    run.attempt(PROGRESS)
    write(run.path(EVENTS), [(step, "events", 1) for step in range(20)])
    for step in range(20):
        run.prints(f"step {step} loss 1\n")
        run.reader.advance()
    assert run.reader.reading.step == 19, "it is alive, and the service has to know"
    for _ in range(3):
        run.read()
    assert len(run.curve()) < 20
    assert len(run.curve("events")) == 20, "what is in files is read later"


def test_a_long_curve_is_thinned(run: Run) -> None:
    from worker.progress.curves import RunCurves

    run.read()
    run.reader._curves = RunCurves(run.file, most_bytes=4000)
    rows = (f"{step},1,\n{step},,{step % 2}\n" for step in range(300))
    run.path(CSV).write_text("step,loss,val_loss\n" + "".join(rows))
    run.read()
    assert run.file.size < 20_000
    assert [step for step, _ in run.curve()] == list(range(0, 300, 2))
    assert len(run.curve("val_loss")) == 150


def test_no_more_curves_than_anyone_can_read(run: Run) -> None:
    write(run.path(EVENTS), [(1, f"tag{n}", 1.0) for n in range(1100)])
    write(run.path(EVENTS), [(1, "step", 1.0), (1, "x" * 500, 1.0)])
    for _ in range(3):
        run.read()
    names = {name for row in run.rows() for name in row} - {"step", "timestamp"}
    assert len(names) == 1024
