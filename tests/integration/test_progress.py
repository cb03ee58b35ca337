"""Programs that have never heard of the library have steps and curves all the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.schemas import MetricsQuery
from api.server.metric_pages import page_of
from jobs.model.record import Job
from jobs.model.states import Reason, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.storage.run_files import RunFiles
from tests.integration.one_worker import Bench, python
from worker.attempt.supervisor import supervise

Wait = Callable[..., Any]
PROGRESS = {"step": r"step (\d+)", "total": r"of (\d+)", "loss": r"loss (\S+)", "lr": r"lr (\S+)"}
PRINTS = """
import sys, time
for step in range(1, 6):
    print(f"step {step} of 5: loss {1 / step:.3f}", flush=True)
    print(f"    lr {step / 10}", flush=True)
"""


@pytest.fixture
def bench(settings: Settings, store: JobStore) -> Iterator[Bench]:
    bench = Bench(settings, store)
    yield bench
    bench.service.messenger.close()


def rows_of(bench: Bench, job: Job) -> list[dict[str, Any]]:
    rows = page_of(bench.storage, job.id, MetricsQuery()).rows
    return [{k: v for k, v in row.items() if k != "timestamp"} for row in rows]


def curve(bench: Bench, job: Job, name: str = "loss") -> list[tuple[int, float]]:
    return [(row["step"], row[name]) for row in rows_of(bench, job) if name in row]


def test_a_program_that_only_prints_has_curves_and_steps(bench: Bench) -> None:
    job = bench.run(python(PRINTS, progress=PROGRESS))
    assert job.state is State.SUCCEEDED, bench.output(job)
    assert curve(bench, job) == [(1, 1.0), (2, 0.5), (3, 0.333), (4, 0.25), (5, 0.2)]
    assert curve(bench, job, "lr") == [(n, n / 10) for n in range(1, 6)]
    assert job.progress is not None
    assert (job.progress.step, job.progress.total_steps, job.progress.loss) == (5, 5, 0.2)
    assert job.progress.step_source == "output"
    assert job.attempts[0].last_step == 5
