"""The inputs of a job: fetched before its program starts, and the same in each attempt."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from tests.integration.one_worker import Bench, DiskOf
from tests.integration.test_workspace_runs import again, said
from worker.cache.entries import entries

Wait = Callable[..., Any]

READS = """
import os, signal
from pathlib import Path
root = Path(os.environ["SPECTRAIN_INPUTS"])
found = sorted(p for name in root.iterdir() for p in (name.rglob("*") if name.is_dir() else [name]))
print("has", *(f"{p.relative_to(root)}={p.read_text()}" for p in found if p.is_file()), flush=True)
if os.environ.get("WAITS") == os.environ["SPECTRAIN_ATTEMPT"]:
    Path("ckpt").write_text("x")
    print("waits", flush=True)
    signal.pause()
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "train").mkdir(parents=True)
    (root / "train/a.txt").write_text("one")
    (root / "b.txt").write_text("two")
    return root


def spec(inputs: dict[str, str], **changes: object) -> JobSpec:
    fields = {
        "name": "a", "command": ["python", "-c", READS], "inputs": inputs,
        "retry": {"backoff_seconds": 0},
    }  # fmt: skip
    return JobSpec.model_validate({**fields, **changes})


def cached(bench: Bench) -> list[Path]:
    found = entries(bench.settings.cache_path)
    return [one.path for one in found if one.kind == "input" and one.size() is not None]


def test_they_are_there_before_the_program_starts(both: Bench, data: Path) -> None:
    inputs = {"data": data.as_uri(), "words.txt": (data / "b.txt").as_uri()}
    job = both.run(spec(inputs))
    assert job.state is State.SUCCEEDED, (job.message, both.output(job))
    lines = said(both, job, 1, "has")
    assert lines == "[1] has data/b.txt=two data/train/a.txt=one words.txt=two"
    assert "2 files, 6 B: fetched in" in said(both, job, 1, "--- input data")
    (attempt,) = job.attempts
    assert attempt.inputs_bytes == 9
    assert attempt.inputs_seconds is not None
    assert set(attempt.inputs) == {"data", "words.txt"}


def test_jobs_share_them(bench: Bench, data: Path) -> None:
    bench.run(spec({"data": data.as_uri()}))
    job = bench.run(spec({"other": data.as_uri()}))
    assert "from the cache of this machine" in said(bench, job, 1, "--- input other")
    assert len(cached(bench)) == 1


def test_a_program_cannot_change_them(bench: Bench, data: Path) -> None:
    script = 'for f in $(find $SPECTRAIN_INPUTS/data/); do stat -c "mode %a" $f; done'
    job = bench.run(spec({"data": data.as_uri()}, command=None, run=script))
    modes = {line for line in bench.output(job).splitlines() if " mode " in line}
    assert modes == {"[1] mode 444", "[1] mode 555"}


def preempted(bench: Bench, wait_until: Wait, submitted: JobSpec) -> Job:
    job = bench.claim(submitted)
    thread = bench.begin(job)
    wait_until(lambda: "waits" in bench.output(job), what="the program")
    bench.store.request(job.id, Request.PREEMPT)
    bench.shutdown_state.notify_request()
    thread.join(60)
    return bench.store.get(job.id)


def test_a_later_attempt_reads_the_same_although_the_source_changed(
    bench: Bench, data: Path, wait_until: Wait
) -> None:
    submitted = spec({"data": data.as_uri()}, env={"WAITS": "1"})
    job = preempted(bench, wait_until, submitted)
    (data / "b.txt").write_text("changed")
    job = again(bench)
    assert job.state is State.SUCCEEDED, job.message
    assert said(bench, job, 2, "has") == "[2] has data/b.txt=two data/train/a.txt=one"
    assert job.attempts[0].inputs == job.attempts[1].inputs


def test_on_another_machine_a_changed_input_is_said_and_a_retry_accepts_it(
    bench: Bench, data: Path, wait_until: Wait
) -> None:
    job = preempted(bench, wait_until, spec({"data": data.as_uri()}, env={"WAITS": "1"}))
    (data / "b.txt").write_text("changed")
    shutil.rmtree(bench.settings.cache_path)
    job = again(bench)
    assert (job.state, job.attempt) == (State.FAILED, 2)
    assert "has changed since the attempt before" in job.message
    assert "`spectrain retry` goes on with the new one" in job.message
    bench.store.retry(job.id)
    job = again(bench)
    assert job.state is State.SUCCEEDED, job.message
    assert "data/b.txt=changed" in said(bench, job, 3, "has")


def test_one_that_is_not_there_fails_the_job_at_once(bench: Bench, tmp_path: Path) -> None:
    url = (tmp_path / "nothing").as_uri()
    job = bench.run(spec({"data": url}))
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert job.message.startswith("input data: ")
    assert url in job.message
    assert bench.run(JobSpec(name="next", command=["true"])).state is State.SUCCEEDED


def test_a_source_that_is_away_is_waited_for(
    bench: Bench, s3_url: str, data: Path, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And while it waits, the job can be cancelled."""
    monkeypatch.setenv("SPECTRAIN_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    away = bench.settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"})
    worker = Bench(away, bench.store)
    job = worker.claim(spec({"data": "s3://nowhere/data"}))
    thread = worker.begin(job)
    wait_until(lambda: "tries again" in worker.output(job), what="the first try")
    worker.store.request(job.id, Request.CANCEL)
    worker.shutdown_state.notify_request()
    thread.join(60)
    assert worker.store.get(job.id).state is State.CANCELLED


def test_one_that_is_larger_than_the_disk_is_said_before_it_is_fetched(
    settings: Settings, store: JobStore, data: Path, disk_of: DiskOf
) -> None:
    with (data / "large").open("wb") as file:
        file.truncate(1 << 40)
    small = settings.model_copy(update={"cache_dir": str(disk_of("8m"))})
    bench = Bench(small, store)
    job = bench.run(spec({"data": data.as_uri()}))
    assert job.attempts[0].reason is Reason.STORAGE
    assert "1.1 TB" in job.attempts[0].message
