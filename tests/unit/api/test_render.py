"""What a person sees of a job."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from api.render import console, heading, job_table, pool_table, story, worker_table
from api.render.jobs import status
from api.schemas import JobView
from jobs.model.record import Attempt, Origin, Progress
from jobs.model.spec import JobSpec, Resources
from jobs.model.states import Reason, State
from jobs.model.workers import Pool, Worker, WorkerState
from machine.text import duration

SPEC = JobSpec.model_validate({"name": "wave", "train": {"steps": 2000}})
JOB = JobView(
    id="wave-23456789",
    spec=SPEC,
    state=State.RUNNING,
    sequence=1,
    attempt=2,
    priority=5,
    submitted_at=1000.0,
    queued_at=1000.0,
    progress=Progress(
        step=699,
        first_step=501,
        resumed_from=500,
        total_steps=2000,
        loss=2.5,
        tokens_per_second=5321.4,
    ),
    files="file:///data/experiments/wave-23456789",
    attempts=[
        Attempt(
            number=1,
            worker="w1",
            started_at=1001.0,
            ended_at=1061.0,
            reason=Reason.PREEMPTED,
            message="the worker was told to stop",
            first_step=0,
            last_step=510,
            checkpoint_step=500,
        ),
        Attempt(number=2, worker="w2", started_at=1100.0),
    ],
)


def text_of(thing: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=400)
    console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_durations_are_said_in_their_two_largest_units() -> None:
    seconds = (-1, 42, 60, 200, 3660, 18420, 86400, 183000)
    assert [duration(s) for s in seconds] == [
        *("0 s", "42 s", "1 min", "3 min 20 s"),
        *("1 h 1 min", "5 h 7 min", "1 d", "2 d 2 h"),
    ]


def test_the_story_tells_how_far_and_why_each_attempt_ended() -> None:
    text = text_of(story(JOB, now=1130.0))
    for told in (
        "running",
        "step 700/2000, loss 2.5, 5,321 tokens per second",
        "preempted",
        "the worker was told to stop",
        "0 to 510",
        "step 500",
        "501 to 699",
        "/data/experiments/wave-23456789",
    ):
        assert told in text


def test_the_story_of_a_waiting_job_tells_what_it_waits_for() -> None:
    waiting = JOB.model_copy(update={"state": State.QUEUED, "queue_position": 3})
    assert "3 jobs are ahead of it" in text_of(story(waiting))
    delayed = waiting.model_copy(update={"not_before": 1250.0})
    assert "next attempt, in 2 min" in text_of(story(delayed, now=1130.0))


def test_the_story_of_a_failed_job_ends_with_its_last_words() -> None:
    last = JOB.attempts[1].model_copy(update={"log_tail": ["Traceback", "ValueError: [x]"]})
    failed = JOB.model_copy(update={"state": State.FAILED, "attempts": [last]})
    assert "ValueError: [x]" in text_of(story(failed))


def test_a_list_has_a_line_for_each_job() -> None:
    assert text_of(job_table([JOB, JOB], now=1130.0)).count("wave-23456789") == 2


def test_a_list_names_owners_and_pools_where_there_are_several() -> None:
    alone = text_of(job_table([JOB, JOB], now=1130.0))
    assert not {"owner", "pool"} & set(alone.split())
    owned = JOB.model_copy(update={"owner": "ada"})
    assert "ada" in text_of(job_table([JOB, owned], now=1130.0))
    there = SPEC.model_copy(update={"resources": Resources(pool="h100")})
    elsewhere = JOB.model_copy(update={"spec": there})
    assert "h100" in text_of(job_table([JOB, elsewhere], now=1130.0))


def test_the_story_names_the_owner_and_the_job_that_it_was_forked_from() -> None:
    origin = Origin(job="wave-7k2mx9qd", step=400)
    job = JOB.model_copy(update={"owner": "ada", "forked_from": origin})
    text = text_of(story(job, now=1130.0))
    assert "ada" in text
    assert "wave-7k2mx9qd at step 400" in text


def test_a_job_that_has_not_begun_its_first_step_names_none() -> None:
    job = JOB.model_copy(update={"progress": Progress(loss=None)})
    assert status(job, now=1130.0) == "running"


def test_a_heading_is_plain_text_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    console(soft_wrap=True).print(heading(2, "The job of [bold]ada[/]"))
    assert capsys.readouterr().out == "2. The job of [bold]ada[/]\n"


def test_a_job_without_steps_shows_no_goodput() -> None:
    assert "goodput" not in text_of(story(JOB.model_copy(update={"goodput": None})))
    assert "93% of the time" in text_of(story(JOB.model_copy(update={"goodput": 0.93})))


FILES = {"restored_files": 3, "restored_bytes": 4200, "restored_newest": "work/out/ckpt.pt",
         "restored_newest_at": 1058.0}  # fmt: skip


def test_what_is_not_known_of_a_program_is_not_shown() -> None:
    first = JOB.attempts[0].model_copy(
        update={"first_step": None, "last_step": None, "restored_files": 0}
    )
    second = JOB.attempts[1].model_copy(update=FILES)
    job = JOB.model_copy(update={"attempts": [first, second], "progress": None})
    text = text_of(story(job, now=1130.0))
    assert "began with 3 files, 4.2 kB, the newest work/out/ckpt.pt, 42 s old" in text
    assert "the start" in text
    for unknown in ("goodput", "computed twice", "steps", "progress"):
        assert unknown not in text
    (row,) = (line for line in text.splitlines() if line.startswith("2 "))
    assert row.split()[1:3] == ["3", "files"]


def test_only_an_attempt_that_counts_steps_computes_some_twice() -> None:
    second = JOB.attempts[1].model_copy(update=FILES)
    job = JOB.model_copy(update={"attempts": [JOB.attempts[0], second], "progress": None})
    (row,) = (line for line in text_of(story(job, now=1130.0)).splitlines() if line[:2] == "2 ")
    assert row.split() == ["2", "3", "files", "30", "s"]


def read(**progress: object) -> JobView:
    """A job of a program that does not use the library."""
    spec = JobSpec.model_validate({"name": "wave", "command": ["t"]})
    seen = Progress.model_validate({"step": 700, "step_source": "tensorboard", **progress})
    first = JOB.attempts[0].model_copy(
        update={"first_step": None, "last_step": 510, "step_source": "tensorboard"}
    )
    attempts = [first, JOB.attempts[1]]
    return JOB.model_copy(update={"spec": spec, "progress": seen, "attempts": attempts})


def test_a_step_that_is_read_is_the_one_that_the_program_says() -> None:
    job = read(total_steps=2000, loss=2.5, seconds_left=200.0)
    text = text_of(story(job, now=1130.0))
    assert "step 700/2000, loss 2.5, 3 min 20 s left, read from TensorBoard files" in text
    assert "700/2000" in (listed := text_of(job_table([job], now=1130.0)))
    assert "3 min 20 s" in listed
    assert "read from the output" in text_of(story(read(step_source="output"), now=1130.0))


def test_which_steps_were_made_twice_is_not_said_of_steps_that_are_read() -> None:
    text = text_of(story(read(), now=1130.0))
    assert "to 510" in text
    assert "to 700" in text
    assert "computed twice" not in text


def test_a_queued_job_shows_the_step_that_it_has_reached() -> None:
    update = {"progress": None, "state": State.QUEUED}
    assert " 510 " in text_of(job_table([read().model_copy(update=update)], now=1130.0))
    assert " 511/2000 " in text_of(job_table([JOB.model_copy(update=update)], now=1130.0))
    ended = read(seconds_left=0.0).model_copy(update={"state": State.SUCCEEDED})
    assert "left" not in text_of(story(ended, now=1130.0))


@pytest.mark.parametrize("columns", [45, 60, 80])
def test_a_narrow_terminal_gets_fewer_columns_and_whole_words(columns: int) -> None:
    worker = Worker(
        name="vm-1988a142", pool="default", host="a", gpus=["NVIDIA H100"], job=JOB.id,
        state=WorkerState.BUSY, since=1000.0, started_at=1000.0,
    )  # fmt: skip
    pool = Pool(name="default", workers={}, queued=1, delayed=0, running=1, wanted=2)
    tables = {
        "step": job_table([JOB] * 2), "job": worker_table([worker]), "queued": pool_table([pool])
    }  # fmt: skip
    for name, table in tables.items():
        out = io.StringIO()
        Console(file=out, width=columns).print(table)
        heading, *_ = lines = out.getvalue().splitlines()
        assert max(map(len, lines)) <= columns
        assert len(lines) == table.row_count + 2, "no cell is folded"
        assert name in heading.split()


def test_a_path_that_is_longer_than_the_terminal_is_not_cut() -> None:
    long = "/mnt/" + "experiments/" * 12 + "wave-23456789"
    out = io.StringIO()
    Console(file=out, width=60).print(story(JOB.model_copy(update={"files": f"file://{long}"})))
    assert long in "".join(line.strip().removeprefix("files").strip() for line in
                           out.getvalue().splitlines())  # fmt: skip
