"""The place of an attempt on its machine: the same for all attempts, and never shared."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.messages import Messenger
from jobs.model.spec import JobSpec
from jobs.model.states import State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.paths import RunPaths
from monitoring.storage.directory import FileStorage
from monitoring.storage.moments import Moments
from tests.integration.worker_processes import Workers
from worker.attempt.preparation import place
from worker.files.scratch import Scratch
from worker.losses.note import Note, noted

Wait = Callable[..., Any]
PROGRAM = """
import os, pathlib, subprocess, sys, time
here = pathlib.Path.cwd()
with open("places", "a") as file:
    print(here, os.getpid(), file=file, flush=True)
if os.environ["SPECTRAIN_ATTEMPT"] == "1":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print("up", flush=True)
    time.sleep(600)
"""


def test_a_program_whose_worker_stands_still_is_ended_before_the_next_attempt_begins(
    workers: Workers,
    store: JobStore,
    messenger: Messenger,
    settings: Settings,
    wait_until: Wait,
) -> None:
    job = store.submit(JobSpec(name="a", command=["python", "-c", PROGRAM]))
    stopped = workers.start(SPECTRAIN_LEASE_SECONDS="1")
    messenger.flush(store.now())
    run = RunPaths(Path(settings.storage_url.removeprefix("file://")) / job.id)
    places = run.root / "work" / "places"
    moments = Moments(FileStorage(run.root.parent), job.id)
    wait_until(
        lambda: (found := moments.newest()) and "work/places" in found.entries, what="a moment"
    )
    place_1, pid = places.read_text().split()
    tree = [psutil.Process(int(pid)), *psutil.Process(int(pid)).children(recursive=True)]
    assert len(tree) == 2

    os.kill(stopped.pid, signal.SIGSTOP)
    workers.start(SPECTRAIN_LEASE_SECONDS="1")
    wait_until(lambda: store.get(job.id).state is State.SUCCEEDED, what="its end")
    _, where = places.read_text().splitlines()
    assert where.split()[0] == place_1, "its paths are those of the first attempt"
    assert not any(process.is_running() for process in tree)
    assert store.get(job.id).attempt == 2

    def times() -> dict[Path, int]:
        files = (path for path in run.root.rglob("*") if path.is_file())
        # The record's copy is written by whichever process keeps the records.
        return {p: p.stat().st_mtime_ns for p in files if p.name != ".record.json"}

    published = times()
    os.kill(stopped.pid, signal.SIGCONT)
    wait_until(lambda: "was overtaken" in workers.logs(), what="the worker's log line")
    assert times() == published
    wait_until(lambda: not (settings.scratch_dir / job.id).exists(), what="a tidy disk")


def test_an_attempt_out_of_reach_keeps_its_place(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "_POLITE_SECONDS", 0.1)
    monkeypatch.setattr(place, "_KILL_SECONDS", 0.1)
    job = store.submit(JobSpec(name="a", command=["true"])).model_copy(update={"attempt": 2})
    note = Note.here(job.id, 1, "elsewhere", tmp_path / "steps")
    elsewhere = replace(note, host="another container")
    usual = Scratch.usual(tmp_path, job.id, 1)
    with noted(tmp_path, elsewhere), usual.held():
        second = place.place_of(tmp_path, job)
        assert second.root not in {usual.root, usual.root.parent}
        assert usual.root.exists()
    assert place.place_of(tmp_path, job).root == usual.root
