"""The short form of `make gauntlet`: programs that die twice, on one worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.gauntlet import checks
from bench.gauntlet.kinds import PROGRAMS
from bench.gauntlet.ledger import Event, Ledger
from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from tests.gauntlet.programs.ledger import inventory
from tests.integration.one_worker import Bench
from worker.attempt.supervisor import supervise
from worker.launch.fork_client import ForkServerClient

Wait = Callable[..., Any]


@pytest.fixture
def bench(settings: Settings, store: JobStore, warm: ForkServerClient) -> Iterator[Bench]:
    """A worker whose programs have torch before they start."""
    bench = Bench(settings, store, warm.start)
    yield bench
    bench.service.messenger.close()


STEPS, EVERY = 30, 10


def spec(program: str, ledger: Path, hold: Path) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": program,
            "command": ["python", str(PROGRAMS / f"{program}.py")],
            "env": {"GAUNTLET_LEDGER": str(ledger), "GAUNTLET_STEPS": str(STEPS),
                    "GAUNTLET_EVERY": str(EVERY), "GAUNTLET_HOLD": str(hold)},
            "retry": {"backoff_seconds": 0},
        }
    )  # fmt: skip


def end_when_stored(
    bench: Bench, job: Job, ledger: Ledger, step: int, number: int, wait: Wait
) -> None:
    """Sends the program a signal when its checkpoint of a step is in storage."""

    def saved() -> Event | None:
        return next((e for e in ledger.events() if (e.event, e.step) == ("saved", step)), None)

    wait(saved, what=f"the checkpoint of step {step}")
    resumed = ledger.last("resumed")
    assert resumed is not None
    run = Path(resumed.more["run"])
    wait(
        lambda: (
            not list(
                checks.moment_flaws(bench.storage, job.id, checks.of_the_program(inventory(run)))
            )
        ),
        what=f"a moment with step {step}",
    )
    os.kill(resumed.more["pid"], number)


@pytest.mark.parametrize("program", ["growing", "mapped", "replacing", "sharded"])
def test_a_program_that_dies_twice_loses_nothing_that_was_stored(
    bench: Bench, tmp_path: Path, wait_until: Wait, program: str
) -> None:
    ledger, hold = Ledger(tmp_path / "ledger"), tmp_path / "hold"
    hold.write_text("10")
    job = bench.claim(spec(program, ledger.path, hold))
    for step, number in ((10, signal.SIGKILL), (20, signal.SIGABRT)):
        thread = bench.begin(job)
        end_when_stored(bench, job, ledger, step, number, wait_until)
        hold.write_text(str(step + 10))
        thread.join(60)
        job = wait_until(lambda: bench.store.claim("default", "w"), what="another attempt")
    hold.unlink()
    supervise(bench.service, job)
    job = bench.store.get(job.id)
    assert job.state is State.SUCCEEDED, bench.output(job)
    assert [e.step for e in ledger.events() if e.event == "resumed"] == [0, 10, 20]
    files = ledger.last("files")
    assert files is not None
    there = checks.of_the_program(files.more["files"])
    assert not list(checks.moment_flaws(bench.storage, job.id, there))
    assert not list(checks.browsing_flaws(bench.storage, job.id, there))
