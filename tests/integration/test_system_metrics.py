"""What a run uses of its machine: sampled, kept over attempts, and given by the series call."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from flask.testing import FlaskClient

from jobs.model.record import Job
from jobs.model.states import State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.storage.base import Fence
from monitoring.storage.open import open_storage
from monitoring.storage.run_files import RunFiles
from tests.integration.one_worker import BEATS, Bench, python
from worker.attempt.supervisor import supervise
from worker.files.logs.row_file import RowFile
from worker.files.pace import Pace
from worker.files.scratch import Scratch
from worker.gpu.health import GpuReading
from worker.usage.processes import usage_below
from worker.usage.sampler import SystemSampler, interval

Wait = Callable[..., Any]
MIB = 1 << 20

# Two processes, one of them busy; the parent holds 200 MiB.
BUSY = BEATS + (
    "import subprocess, sys\n"
    "held = b'x' * (200 << 20)\n"
    "burn = subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
    "for step in range(50):\n"
    "    step_counter.beat(step)\n"
    "    time.sleep(0.1)\n"
    "burn.kill()\n"
)
DIES = BEATS + (
    "import os\n"
    "for step in range(30):\n"
    "    step_counter.beat(step)\n"
    "    time.sleep(0.1)\n"
    "os.kill(os.getpid(), 9)\n"
)


def samples(bench: Bench, job: Job) -> list[dict[str, str]]:
    file = bench.files(job).system
    return list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []


def known(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row[name]]


def test_a_run_has_samples_of_all_its_processes(bench: Bench) -> None:
    gpu = GpuReading("0", used_bytes=3 << 30, total_bytes=80 << 30, busy_percent=98.0,
                     celsius=64.0, watts=512.5)  # fmt: skip
    bench.service = replace(bench.service, gpus=lambda: [gpu])
    job = bench.run(python(BUSY))
    assert job.state is State.SUCCEEDED, bench.output(job)
    rows = samples(bench, job)
    assert len(rows) >= 3
    assert max(known(rows, "memory_bytes")) > 200 * MIB
    assert max(known(rows, "cpu_percent")) > 10, "the busy child counts"
    assert known(rows, "disk_free_bytes")[-1] > 0
    assert known(rows, "step") == sorted(known(rows, "step"))
    assert known(rows, "step")[-1] > 10
    last = rows[-1]
    assert (last["gpu0_percent"], last["gpu0_memory_bytes"]) == ("98.0", str(3 << 30))
    assert (last["gpu0_celsius"], last["gpu0_watts"]) == ("64.0", "512.5")
    assert abs(float(last["time"]) - time.time()) < 60
    assert "logs/system.csv" in RunFiles(bench.storage, job.id).all()


def test_attempts_continue_the_same_file_and_a_killed_one_loses_no_row(bench: Bench) -> None:
    job = bench.run(python(DIES))
    assert job.state is State.QUEUED, bench.output(job)
    before = samples(bench, job)
    assert len(before) >= 2
    again = bench.store.claim("default", "w")
    assert again is not None
    supervise(bench.service, again)
    after = samples(bench, job)
    assert after[: len(before)] == before
    assert len(after) >= len(before) + 2


def test_storage_that_is_away_holds_nothing_up_and_loses_no_row(
    bench: Bench, wait_until: Wait
) -> None:
    job = bench.claim(python(BUSY))
    thread = bench.begin(job)
    root = bench.storage.root
    wait_until(lambda: samples(bench, job), what="the first sample")
    aside = root.with_name("aside")
    root.rename(aside)
    time.sleep(2.5)
    aside.rename(root)
    thread.join(60)
    assert bench.store.get(job.id).state is State.SUCCEEDED
    times = known(samples(bench, job), "time")
    # Of each second one, those of the outage too.
    assert max(b - a for a, b in pairwise(times)) < 2.4


def test_time_of_processes_that_have_ended_still_counts() -> None:
    script = "sum(range(20_000_000))"
    shell = f"{sys.executable} -c '{script}'; echo done; read line"
    with subprocess.Popen(["sh", "-c", shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == b"done\n"
        usage = usage_below(it.pid)
        assert usage.cpu_seconds > 0.1
        assert 0 < usage.memory_bytes < 50 * MIB
        it.communicate(b"\n")
    assert usage_below(it.pid).memory_bytes == 0


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[int], RowFile]:
    """The rows of an attempt, as its worker has them."""
    storage = open_storage((tmp_path / "storage").as_uri())

    def opened(attempt: int) -> RowFile:
        scratch = Scratch(tmp_path, "job", attempt)
        scratch.root.mkdir(parents=True)
        fence = Fence("job", attempt)
        storage.seize(fence)
        pace = Pace(appends_in_place=True)
        return RowFile(storage, scratch.rows, Path("logs/system.csv"), fence, pace)

    return opened


def sampler_of(file: RowFile, place: Path, gpus: int, now: list[float]) -> SystemSampler:
    readings = [GpuReading(str(n), busy_percent=50.0 + n) for n in range(gpus)]
    return SystemSampler(
        file, place, guard=lambda: None, step=lambda: None, gpus=lambda: readings,
        disk_bytes=lambda: 7, first_step=40, clock=lambda: now[0],
    )  # fmt: skip


def test_a_worker_with_more_gpus_adds_columns_to_all_rows(
    rows: Callable[[int], RowFile], tmp_path: Path
) -> None:
    now = [0.0]
    for attempt, gpus in ((1, 1), (2, 2), (3, 0)):
        file = rows(attempt)
        sampler = sampler_of(file, tmp_path, gpus, now)
        sampler.sample()  # before what storage has is here
        file.publish()
        sampler.sample()  # not due
        now[0] += 1
        sampler.sample()
        file.publish(closing=True)
    text = (tmp_path / "storage/job/logs/system.csv").read_text()
    found = list(csv.DictReader(text.splitlines()))
    assert text.count("time,") == 1
    assert [(row["gpu0_percent"], row["gpu1_percent"]) for row in found] == [
        *[("50.0", "")] * 2, *[("50.0", "51.0")] * 2, *[("", "")] * 2,
    ]  # fmt: skip
    assert {row["step"] for row in found} == {"40"}, "where the attempt goes on"


def test_samples_come_less_often_the_longer_an_attempt_runs() -> None:
    assert [interval(age) for age in (0, 59, 60, 6 * 3600 - 1, 6 * 3600, 1e7)] == [
        1,
        1,
        5,
        5,
        30,
        30,
    ]


def test_a_sample_costs_next_to_nothing() -> None:
    """A tree of some processes is read in well below a hundredth of the time between samples."""
    with subprocess.Popen(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; wait"]) as it:
        root = psutil.Process(it.pid)
        while len(root.children()) < 8:
            time.sleep(0.01)
        begun = time.thread_time()
        for _ in range(20):
            usage_below(it.pid)
        spent = (time.thread_time() - begun) / 20
        for child in root.children():
            os.kill(child.pid, signal.SIGKILL)
    assert spent < 0.01


# -- the series call ---------------------------------------------------------------------------


def series(http: FlaskClient, job_id: str, **query: Any) -> dict[str, Any]:
    answer = http.get(f"/v1/jobs/{job_id}/series", query_string={"source": "system", **query})
    assert answer.status_code == 200, answer.text
    return dict(json.loads(answer.data))


HEAD = "time,step,cpu_percent,gpu0_percent\n"


def test_samples_lie_on_the_axes_of_the_metrics(http: FlaskClient, job_id: str, run: Path) -> None:
    metrics = [{"step": n, "timestamp": 1000.0 + n, "loss": 1.0} for n in range(5)]
    (run / "logs/metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in metrics))
    file = run / "logs/system.csv"
    file.write_text(HEAD + "998.0,0,,\n1002.0,2,150.5,97.0\n1004.0,4,99.5,\n")
    page = series(http, job_id, keys=["cpu_percent", "gpu0_percent"], x="time")
    assert page["series"]["cpu_percent"]["x"] == [2.0, 4.0]
    assert page["series"]["cpu_percent"]["last"] == [150.5, 99.5]
    assert page["series"]["gpu0_percent"]["x"] == [2.0]
    assert page["x_range"] == [-2.0, 4.0]
    assert (page["names"], page["rows"]) == ({"cpu_percent": 2, "gpu0_percent": 1}, 3)
    assert series(http, job_id, keys="cpu_percent")["series"]["cpu_percent"]["x"] == [2, 4]
    part = series(http, job_id, keys="cpu_percent", x="time", **{"from": 3})
    assert part["series"]["cpu_percent"]["x"] == [4.0]
    with file.open("a") as opened:
        opened.write("1006.0,3,12.0,11.0\n")
    news = series(http, job_id, keys="cpu_percent", x="time", cursor=page["cursor"])
    assert (news["restarted"], news["series"]["cpu_percent"]["x"]) == (False, [6.0])


def test_other_columns_and_damaged_lines_do_no_harm(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    text = HEAD + "1.0,1,5,6\nnonsense\n2.0,2,x,7\n3.0,3\ntime,step,other\n4.0,4,9\n5.0,5,8"
    (run / "logs/system.csv").write_text(text)
    page = series(http, job_id, keys=["cpu_percent", "other"])
    assert page["series"]["cpu_percent"]["last"] == [5.0]
    assert page["series"]["other"]["last"] == [9.0]
    assert series(http, job_id, keys="other", x="time")["series"]["other"]["x"] == [3.0]


def test_a_run_without_samples_has_none(http: FlaskClient, job_id: str) -> None:
    page = series(http, job_id, keys="cpu_percent")
    assert (page["names"], page["rows"], page["axes"]) == ({}, 0, [])


def test_the_etag_follows_the_samples(
    http: FlaskClient, job_id: str, run: Path, settings: Settings, store: JobStore
) -> None:
    (run / "logs/system.csv").write_text(HEAD + "1.0,1,5,6\n")
    path = f"/v1/jobs/{job_id}/series?source=system&keys=cpu_percent"
    etag = http.get(path).headers["ETag"]
    assert etag != http.get(f"/v1/jobs/{job_id}/series?keys=cpu_percent").headers["ETag"]
    assert http.get(path, headers={"If-None-Match": etag}).status_code == 304
    with (run / "logs/system.csv").open("a") as opened:
        opened.write("2.0,2,6,6\n")
    assert http.get(path, headers={"If-None-Match": etag}).status_code == 200
