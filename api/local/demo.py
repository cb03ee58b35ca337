"""`spectrain demo`: runs one job from submission to results and drains its node halfway."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from api.client.client import Client
from api.local.redis_server import NoRedisServerError
from api.local.service import CannotStartError, LocalService, running
from api.render import console as new_console
from api.render import heading, story
from api.schemas import JobView
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State
from machine.text import duration
from monitoring.paths import RunPaths
from workload.settings import CheckpointConfig, ModelConfig, OptimizerConfig, TrainSpec

# The wave model with RGD and QFE on the source of the standard library: 60 to 90 s on two cores.
SPEC = JobSpec(
    name="demo",
    train=TrainSpec(
        model=ModelConfig(d_model=128, num_layers=2, num_heads=4, block_size=64),
        optimizer=OptimizerConfig(lr=0.006, warmup_steps=50, resonance_warmup=200),
        steps=1500,
        batch_size=16,
        eval_every=300,
        eval_batches=4,
        plot_every=500,
        sample_tokens=300,
    ),
    checkpoint=CheckpointConfig(every_steps=300),
)
_PREEMPT_AT = 0.45
_TICK_SECONDS = 0.5
_LINE_SECONDS = 5.0
_DEADLINE_SECONDS = 1200.0


class DemoFailedError(Exception):
    """The demo did not go as it should; the message says what went wrong."""


def demo(directory: Path) -> int:
    """Runs the demo in `directory`; returns 0 only if every step of it succeeded."""
    console = new_console(soft_wrap=True)
    try:
        service = LocalService(
            directory,
            workers=1,
            say=lambda line: console.print(f"  {line}", style="dim"),
            isolated=True,
        )
        console.print(heading(1, f"Starting Redis, API and one worker in {service.data}"))
        with running(service):
            console.print(f"   The API is ready at {service.url}")
            _run_the_job(console, service)
    except KeyboardInterrupt:
        console.print("\nStopped; no process is left running.")
        return 130
    except (CannotStartError, NoRedisServerError, DemoFailedError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    console.print(
        Text.assemble(
            ("Done:", "bold green"), " trained, preempted, resumed, finished; no step was lost."
        )
    )
    return 0


def _run_the_job(console: Console, service: LocalService) -> None:
    with Client(service.url, "") as client:
        job = client.submit(SPEC)
        console.print(
            heading(
                2,
                f"Submitted job {job.id}: {_total_steps(job)} training steps of a wave GPT "
                "(RGD, QFE)",
            )
        )
        job = _Follower(console, service, client, job).follow()
        _report(console, service, client, job)
        _check(job)


class ProgressLines:
    """Prints the progress as lines where no bar can be drawn: the output is not a terminal."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._printed = ""
        self._printed_at = clock() - _LINE_SECONDS

    def print(self, line: str) -> None:
        """Prints a line at most every few seconds, and none twice in a row."""
        now = self._clock()
        due = now - self._printed_at >= _LINE_SECONDS and line != self._printed
        if due and not self._console.is_terminal:
            self._printed, self._printed_at = line, now
            self._console.print(f"   {line}")


class _Follower:
    """Follows a job and drains its worker once."""

    def __init__(
        self, console: Console, service: LocalService, client: Client, job: JobView
    ) -> None:
        self._console = console
        self._service = service
        self._client = client
        self._job = job
        self._drained_at: float | None = None
        self._lines = ProgressLines(console)
        self._pace: tuple[int, float, int] | None = None  # attempt, and its first time and step

    def follow(self) -> JobView:
        """The job in its final state; raises `DemoFailedError` if that takes too long."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        bar = Progress(
            TextColumn("   step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        with bar:
            task = bar.add_task("waiting for the first step", total=_total_steps(self._job))
            while not self._job.state.is_final:
                if time.monotonic() > deadline:
                    raise DemoFailedError(f"job {self._job.id} is still {self._job.state}")
                time.sleep(_TICK_SECONDS)
                self._service.tend()
                before, self._job = self._job, self._client.get(self._job.id)
                self._print_changes(before)
                status = self._status()
                bar.update(task, completed=_steps_done(self._job), description=status)
                self._lines.print(
                    f"step {_steps_done(self._job)}/{_total_steps(self._job)}  {status}"
                )
                self._drain_halfway()
        return self._job

    def _print_changes(self, before: JobView) -> None:
        if self._job.state is State.QUEUED and before.state is State.RUNNING:
            last = self._job.attempts[-1]
            self._console.print(
                f"   Attempt {last.number} was {last.reason} after step {last.last_step} and saved "
                f"step {last.checkpoint_step}; the job is queued again"
            )
        progress, seen = self._job.progress, before.progress
        started = progress is not None and progress.step is not None
        if started and (seen is None or seen.step is None or before.attempt < self._job.attempt):
            start = progress.resumed_from if progress else None
            how = "starts at step 0" if start is None else f"resumes from step {start}"
            if self._drained_at is not None:
                how += f", {time.monotonic() - self._drained_at:.1f} s after the drain"
            self._console.print(f"   Attempt {self._job.attempt} {how}")

    def _status(self) -> str:
        progress = self._job.progress
        if self._job.state is State.QUEUED:
            return "queued"
        if progress is None or progress.step is None:
            return "starting"
        if progress.loss is None:
            return ""
        status = f"loss {progress.loss:.4f}"
        if progress.tokens_per_second:
            status += f"  {progress.tokens_per_second:,.0f} tokens/s"
        left = self._seconds_left()
        return status if left is None else f"{status}  {duration(left)} left"

    def _seconds_left(self) -> float | None:
        """The time to the last step, at the pace of this attempt."""
        step, now = _steps_done(self._job), time.monotonic()
        if self._pace is None or self._pace[0] != self._job.attempt:
            self._pace = (self._job.attempt, now, step)
        _, since, first = self._pace
        if step - first < 5:
            return None
        return (_total_steps(self._job) - step) * (now - since) / (step - first)

    def _drain_halfway(self) -> None:
        middle = _PREEMPT_AT * _total_steps(self._job)
        workers = self._service.workers
        if self._drained_at is not None or _steps_done(self._job) < middle or not workers:
            return
        worker = workers[0]
        self._console.print(
            heading(
                3,
                f"Draining the node: SIGTERM to worker process {worker} during "
                f"step {_steps_done(self._job)}",
            )
        )
        os.kill(worker, signal.SIGTERM)
        self._drained_at = time.monotonic()


def _report(console: Console, service: LocalService, client: Client, job: JobView) -> None:
    console.print(heading(4, "The job and its attempts"))
    console.print(story(job), soft_wrap=False)
    console.print()
    if job.state is not State.SUCCEEDED:
        return
    run = RunPaths(service.data / "fetched" / job.id)
    files = client.fetch(job.id, run.root)
    console.print(heading(5, f"Fetched {len(files)} files over HTTP"))
    rows = list(client.metrics(job.id))
    results = json.loads(run.results.read_text())
    console.print(f"   final loss       {rows[-1]['loss']:.4f} (first loss {rows[0]['loss']:.4f})")
    console.print(f"   validation loss  {results['final_metrics']['val_loss']:.4f}")
    for name, path in (
        ("plots", run.visualizations),
        ("checkpoints", run.checkpoints),
        ("results", run.results),
    ):
        console.print(f"   {name:<16} {path}")
    console.print("   generated sample:")
    for line in "".join(results["generation_samples"]).splitlines():
        console.print(f"     {line}", style="cyan", markup=False)


def _check(job: JobView) -> None:
    """Raises `DemoFailedError` unless the job was preempted once, resumed and succeeded."""
    reasons = [attempt.reason for attempt in job.attempts]
    if job.state is not State.SUCCEEDED:
        raise DemoFailedError(f"the job {job.state}: {job.message}")
    if reasons != [Reason.PREEMPTED, Reason.COMPLETED]:
        raise DemoFailedError(f"the attempts ended as {', '.join(map(str, reasons))}")
    if job.attempts[-1].resumed_from is None:
        raise DemoFailedError("the second attempt started from step 0 instead of resuming")


def _total_steps(job: JobView) -> int:
    return job.spec.train.steps if job.spec.train else 0


def _steps_done(job: JobView) -> int:
    if job.state is State.SUCCEEDED:
        return _total_steps(job)
    step = job.progress.step if job.progress else None
    step = job.checkpoint_step if step is None else step
    return 0 if step is None else step + 1
