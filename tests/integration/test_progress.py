"""Programs that have never heard of the library have steps and curves all the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.schemas import MetricsQuery
from api.server.runs.metric_pages import page_of
from jobs.model.record import Job, Progress
from jobs.model.states import Reason, Request, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.storage.run_files import RunFiles
from tests.integration.one_worker import Bench, python
from worker.attempt.supervisor import supervise

Wait = Callable[..., Any]
ROOT = Path(__file__).parents[2]
PROGRESS = {"step": r"step (\d+)", "total": r"of (\d+)", "loss": r"loss (\S+)", "lr": r"lr (\S+)"}
PRINTS = """
for step in range(1, 6):
    print(f"step {step} of 5: loss {1 / step:.3f}")
    print(f"    lr {step / 10}")
"""
# Goes on from step 3 of its checkpoint in the second attempt, and says so in every way.
RESUMES = """
import csv, json, os, pathlib, sys, time
sys.path.insert(0, os.environ["ROOT"])
from tests.event_files import write
attempt = int(os.environ["SPECTRAIN_ATTEMPT"])
saved = pathlib.Path("saved")
start = int(saved.read_text()) if saved.exists() else 0
for step in range(start + 1, 9):
    print(f"step {step} loss {attempt}", flush=True)
    write(pathlib.Path(f"runs/{attempt}/events.out.tfevents.1"), [(step, "events", attempt)])
    path = pathlib.Path(f"lightning_logs/version_{attempt}/metrics.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("epoch,step,csv\\n" * (file.tell() == 0) + f"0,{step},{attempt}\\n")
    if step == 3 and attempt == 1:
        saved.write_text("3")
    if step == 5 and attempt == 1:
        time.sleep(4)
        os.kill(os.getpid(), 9)
"""


@pytest.fixture
def bench(settings: Settings, store: JobStore) -> Iterator[Bench]:
    bench = Bench(settings, store)
    yield bench
    bench.service.messenger.close()


def rows_of(bench: Bench, job: Job) -> list[dict[str, Any]]:
    return page_of(bench.storage, job.id, MetricsQuery()).rows


def curve(bench: Bench, job: Job, name: str = "loss") -> list[tuple[int, float]]:
    return [(row["step"], row[name]) for row in rows_of(bench, job) if name in row]


def progress_of(job: Job) -> Progress:
    assert job.progress is not None
    return job.progress


def test_a_program_that_only_prints_has_steps_and_curves(bench: Bench) -> None:
    job = bench.run(python(PRINTS, progress=PROGRESS))
    assert job.state is State.SUCCEEDED, bench.output(job)
    assert curve(bench, job) == [(1, 1.0), (2, 0.5), (3, 0.333), (4, 0.25), (5, 0.2)]
    assert curve(bench, job, "lr") == [(n, n / 10) for n in range(1, 6)]
    seen = progress_of(job)
    assert (seen.step, seen.total_steps, seen.loss, seen.step_source) == (5, 5, 0.2, "output")
    assert job.attempts[0].last_step == 5
    assert "logs/metrics.read.jsonl" in RunFiles(bench.storage, job.id).all()


def test_a_run_that_resumes_has_one_curve_of_each_source(bench: Bench) -> None:
    env = {"ROOT": str(ROOT)}
    job = bench.run(
        python(RESUMES, env=env, progress={"step": r"step (\d+)", "loss": r"loss (\d)"})
    )
    assert job.state is State.QUEUED, bench.output(job)
    assert progress_of(job).step == 5
    again = bench.store.claim("default", "w")
    assert again is not None
    supervise(bench.service, again)
    job = bench.store.get(job.id)
    assert job.state is State.SUCCEEDED, bench.output(job)
    whole = [(step, 1 if step < 4 else 2) for step in range(1, 9)]
    assert curve(bench, job) == curve(bench, job, "events") == curve(bench, job, "csv") == whole
    # What is read does not tell which steps were made twice, and nothing is said of it.
    assert [one.steps_recomputed for one in job.attempts] == [None, None]
    assert [one.last_step for one in job.attempts] == [5, 8]
    assert job.goodput_at(1e12) is None


def test_rows_of_the_library_come_first(bench: Bench) -> None:
    script = """
import os, pathlib, sys
sys.path.insert(0, os.environ["ROOT"])
from monitoring import MetricsLogger
from tests.event_files import write
write(pathlib.Path("runs/events.out.tfevents.1"), [(900, "loss", 9.0)])
logger = MetricsLogger(pathlib.Path(os.environ["SPECTRAIN_RUN_DIR"]) / "logs", 1)
for step in range(3):
    logger.log_metrics(step, {"loss": 0.5})
    print(f"step {700 + step} loss 7")
"""
    job = bench.run(python(script, env={"ROOT": str(ROOT)}, progress=PROGRESS))
    assert job.state is State.SUCCEEDED, bench.output(job)
    assert curve(bench, job) == [(0, 0.5), (1, 0.5), (2, 0.5)]
    seen = progress_of(job)
    assert (seen.step, seen.step_source, seen.loss) == (2, None, 0.5)


def test_a_loss_that_is_printed_as_no_number_ends_the_job(bench: Bench) -> None:
    script = "print('step 1 loss nan')\nimport time; time.sleep(600)"
    job = bench.run(python(script, progress=PROGRESS))
    assert (job.state, job.reason) == (State.FAILED, Reason.DIVERGED)
    # It is found in the last line of a program that has ended, too.
    job = bench.run(python("print('step 1 loss inf', end='')", progress=PROGRESS))
    assert job.reason is Reason.DIVERGED


def test_a_program_that_prints_its_steps_and_then_none_has_stalled(bench: Bench) -> None:
    script = """
import time
for step in range(3):
    print("step", step, flush=True)
    time.sleep(1.2)
time.sleep(600)
"""
    limits = {"stall_seconds": 3}
    job = bench.run(python(script, progress=PROGRESS, limits=limits, retry={"max_failures": 0}))
    assert (job.state, job.reason) == (State.FAILED, Reason.STALLED)


@pytest.mark.parametrize("text", [r"((?:a+)+)$", r"(\d+)(?:.*.*.*.*)="])
def test_no_expression_holds_up_a_worker(bench: Bench, wait_until: Wait, text: str) -> None:
    script = (
        "import time\nfor _ in range(600):\n print('a' * 10_000_000, flush=True); time.sleep(1)"
    )
    job = bench.claim(python(script, progress={"step": text}))
    thread = bench.begin(job)
    wait_until(lambda: "aaa" in bench.output(job), what="its output")
    bench.store.request(job.id, Request.CANCEL)
    thread.join(30)
    assert not thread.is_alive()
    assert bench.store.get(job.id).state is State.CANCELLED


def test_a_run_directory_full_of_traps_does_no_harm(bench: Bench) -> None:
    script = """
import os, pathlib
pathlib.Path("events.out.tfevents.1").mkdir()
os.symlink("/", "metrics.csv")
os.mkfifo("trainer_state.json")
pathlib.Path("a").mkdir()
pathlib.Path("a/events.out.tfevents.2").write_bytes(os.urandom(100_000))
pathlib.Path("a/metrics.csv").write_bytes(b'step,"loss\\n' + os.urandom(100_000))
pathlib.Path("a/trainer_state.json").write_text("[" * 1_000_000)
print("step 1 loss 2", flush=True)
"""
    job = bench.run(python(script, progress=PROGRESS))
    assert job.state is State.SUCCEEDED, bench.output(job)
    assert curve(bench, job) == [(1, 2.0)]


def test_what_is_read_of_a_dead_attempt_stays_in_its_record(bench: Bench, wait_until: Wait) -> None:
    state = {"global_step": 40, "max_steps": 90, "log_history": [{"loss": 0.5, "step": 40}]}
    script = f"""
import pathlib, time
pathlib.Path("checkpoint-40").mkdir()
pathlib.Path("checkpoint-40/trainer_state.json").write_text({json.dumps(state)!r})
time.sleep(600)
"""
    job = bench.claim(python(script))
    thread = bench.begin(job)

    def known() -> Progress | None:
        seen = bench.store.get(job.id).progress
        return seen if seen is not None and seen.step is not None else None

    seen = wait_until(known, what="its progress")
    assert (seen.step, seen.total_steps, seen.loss) == (40, 90, 0.5)
    assert seen.step_source == "trainer_state"
    bench.store.request(job.id, Request.CANCEL)
    thread.join(30)
    assert bench.store.get(job.id).attempts[0].step_source == "trainer_state"
