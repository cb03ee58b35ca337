"""`spectrain drill`: interrupts a job and compares it with an uninterrupted run."""

from __future__ import annotations

import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from api.client.client import ApiError, Client, Unreachable
from api.client.find import NotOneFoundError, find_job
from api.drill.comparison import Comparison, common_step, compare
from api.drill.interruptions import (
    Mark,
    OutOfReachError,
    Preemption,
    Signal,
    Striker,
    Target,
    goes_on,
    is_due,
    mark,
    moments,
)
from api.drill.report import Report
from api.local.redis_server import NoRedisServerError
from api.local.service import CannotStartError, LocalService, running
from api.render import console as new_console
from api.render import heading
from api.schemas import JobView
from jobs.model.spec import JobSpec, Retry
from jobs.model.states import State
from monitoring.paths import RunPaths, commit_record, step_of
from workload.settings import CheckpointConfig, ModelConfig, OptimizerConfig, TrainSpec

# About ten seconds on two cores. Dropout draws random numbers, which a resume must not repeat.
SPEC = JobSpec(
    name="drill",
    train=TrainSpec(
        model=ModelConfig(d_model=64, num_layers=2, num_heads=4, block_size=64, dropout=0.1),
        optimizer=OptimizerConfig(lr=0.006, warmup_steps=50, resonance_warmup=100),
        steps=300,
        batch_size=8,
        log_every=5,
        eval_every=100,
        eval_batches=2,
        plot_every=1000,
        sample_tokens=8,
    ),
    checkpoint=CheckpointConfig(every_steps=25),
    env={"SPECTRAIN_DETERMINISTIC": "1"},
    retry=Retry(backoff_seconds=0),
)
LEASE_SECONDS = 2.0
_TICK_SECONDS = 0.1
_SILENCE_SECONDS = 60.0  # how long the service may not answer
_STUCK_SECONDS = 300.0  # how long a job in the drill's own service may make no step


class DrillFailedError(Exception):
    """The drill could not run; the message says why."""


@dataclass(frozen=True)
class Plan:
    """Which job is interrupted, by which signal and when."""

    spec: JobSpec
    target: Target
    number: signal.Signals
    times: int
    seed: int
    at: tuple[int, ...] = ()  # the steps; empty: random ones
    of: str | None = None  # the job that is drilled, by its id or an abbreviation

    def check(self) -> None:
        """Raises `DrillFailedError` if the run cannot have one of the steps."""
        steps = self.spec.train.steps if self.spec.train else None
        if steps is not None and self.at and max(self.at) >= steps:
            last = max(self.at)
            raise DrillFailedError(f"the run has the steps 0 to {steps - 1}, not step {last}")

    def moments(self, steps: int) -> list[int]:
        """The steps at which to interrupt a run of `steps`."""
        return sorted(self.at) or moments(steps, self.times, random.Random(self.seed))


def drill(
    *, connect: Callable[[], Client] | None, url: str, data: Path | None, spec: JobSpec | None,
    target: str, signal_name: str, times: int, at: Sequence[int], seed: int | None, device: str,
    as_json: bool, of: str | None = None,
) -> int:  # fmt: skip
    """Runs the drill against the service at `url` if `connect` is given.

    Otherwise it starts a service of its own in `data`. `of` names a job of that service: the drill
    runs what that job runs.

    Returns the exit code: 0 only if both jobs succeeded, every interruption took place, and the
    runs are identical.
    """
    seed = secrets.randbelow(10**6) if seed is None else seed
    number = signal.Signals[f"SIG{signal_name}"]
    plan = Plan(spec or SPEC, Target(target), number, len(at) or times, seed, tuple(at), of)
    console = new_console(soft_wrap=True, stderr=as_json)
    try:
        plan.check()
        if connect is None:
            report = _own_service(console, plan, data, device)
        else:
            report = _at(console, plan, connect, url)
    except KeyboardInterrupt:
        console.print("\nStopped; no process is left running.")
        return 130
    except (
        ApiError, CannotStartError, DrillFailedError, NoRedisServerError, NotOneFoundError,
        OutOfReachError, Unreachable,
    ) as error:  # fmt: skip
        print(f"The drill failed: {error}", file=sys.stderr)
        return 1
    report.show(console)
    if as_json:
        print(report.as_json())
    return 0 if report.passed else 1


def _own_service(console: Console, plan: Plan, data: Path | None, device: str) -> Report:
    """Runs the drill in a service of its own; keeps the files if `data` is given."""
    if data is not None and (data / "redis").exists():
        raise DrillFailedError(f"{data} holds the data of a service; choose another directory")
    directory = data or Path(tempfile.mkdtemp(prefix="spectrain-drill-"))
    service = LocalService(
        directory,
        workers=2,
        device=device,
        say=lambda line: console.print(f"  {line}", style="dim"),
        settings={
            "SPECTRAIN_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
            "SPECTRAIN_POOL": plan.spec.resources.pool,
        },
        isolated=True,
    )
    console.print(
        heading(
            1,
            f"Starting Redis, API and two workers in {service.data}, with a lease of "
            f"{LEASE_SECONDS:g} s (the default is 15 s)",
        )
    )
    try:
        with running(service), Client(service.url, "", timeout=5, patience=0) as client:
            striker = Signal(service, plan.target, plan.number)
            drill = _Drill(console, client, plan, striker, tend=service.tend)
            report = drill.run(directory / "fetched", LEASE_SECONDS)
    except KeyboardInterrupt:
        if data is None:
            shutil.rmtree(directory, ignore_errors=True)
        raise
    if data is None and report.passed:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        console.print(f"All files are in {service.data}")
    return report


def _at(console: Console, plan: Plan, connect: Callable[[], Client], url: str) -> Report:
    """Runs the drill against a running service, through its API."""
    with connect() as client, tempfile.TemporaryDirectory() as directory:
        striker = Preemption(client, plan.target, plan.number)
        if plan.of is not None:
            of = find_job(client, plan.of)
            plan = replace(plan, of=of, spec=client.get(of).spec)
            plan.check()
        console.print(
            heading(
                1,
                f"Using the service {url}: its processes are out of reach, so the drill "
                f"preempts through the API instead of sending {plan.number.name}",
            )
        )
        return _Drill(console, client, plan, striker, stuck_seconds=None).run(Path(directory), None)


class _Drill:
    """Runs the job twice and compares the runs."""

    def __init__(
        self, console: Console, client: Client, plan: Plan, striker: Striker, *,
        tend: Callable[[], None] = lambda: None, stuck_seconds: float | None = _STUCK_SECONDS,
    ) -> None:  # fmt: skip
        self._console = console
        self._client = client
        self._plan = plan
        self._striker = striker
        self._tend = tend
        self._stuck_seconds = stuck_seconds
        self._heard = time.monotonic()
        self.seconds: list[float] = []  # from each interruption to the first new step

    def run(self, fetched: Path, lease: float | None) -> Report:
        """Runs the drill and returns its report; downloads the files to compare into `fetched`."""
        self._console.print(heading(2, "The uninterrupted run"))
        untouched = self._job("untouched", [])
        self._print_end(untouched)
        chosen = self._plan.moments(1 + (untouched.last_step or 0))
        interrupted, comparison = None, Comparison()
        if untouched.state is State.SUCCEEDED:
            at = ", ".join(map(str, chosen))
            self._console.print(
                heading(
                    3,
                    f"The interrupted run: {self._striker.title} at or after "
                    f"step{'' if len(chosen) == 1 else 's'} {at} (--seed {self._plan.seed})",
                )
            )
            interrupted = self._job("interrupted", chosen)
            self._print_end(interrupted)
        if interrupted is not None and interrupted.state is State.SUCCEEDED:
            comparison = self._compare(untouched, interrupted, fetched)
        report = Report(
            signal=self._plan.number.name,
            target=self._plan.target,
            seed=self._plan.seed,
            moments=chosen,
            lease_seconds=lease,
            untouched=untouched,
            interrupted=interrupted,
            seconds=self.seconds,
            comparison=comparison,
        )
        self._record(report)
        return report

    def _record(self, report: Report) -> None:
        """Records the verdict with the jobs that it is about."""
        proof = report.proof()
        for job_id in dict.fromkeys([self._plan.of or report.untouched.id, *proof.jobs]):
            try:
                self._client.record_proof(job_id, proof)
            except (ApiError, Unreachable) as error:  # the drill has its verdict all the same
                self._console.print(f"   The verdict is not recorded with {job_id}: {error}")

    def _job(self, role: str, chosen: list[int]) -> JobView:
        """The job in its final state, interrupted at the `chosen` steps."""
        spec = self._plan.spec
        labels = {**spec.labels, "drill": role}
        job = self._client.submit(spec.model_copy(update={"labels": labels}))
        try:
            return self._follow(job, list(chosen))
        except BaseException:
            with suppress(ApiError, Unreachable):  # the original error matters more
                self._client.cancel(job.id)
            raise

    def _follow(self, job: JobView, left: list[int]) -> JobView:
        last, struck = Mark(), 0.0  # the time of an interruption, until training continues
        moved = time.monotonic()
        kill, ends = self._plan.number is signal.SIGKILL, self._striker.ends_attempt
        while not job.state.is_final:
            time.sleep(_TICK_SECONDS)
            before, job = job, self._poll(job)
            now = time.monotonic()
            if mark(job) != mark(before):
                moved = now
            elif self._stuck_seconds is not None and now - moved > self._stuck_seconds:
                raise DrillFailedError(f"job {job.id} has made no step for {now - moved:.0f} s")
            if struck and goes_on(job, last, ends_attempt=ends):
                self.seconds.append(now - struck)
                self._print_resume(job, now - struck)
                struck = 0.0
            due = left and is_due(job, left[0], last, kill=kill, ends_attempt=ends)
            if due and not struck and (done := self._strike(job)):
                last, struck = mark(job), now
                self._console.print(f"   during step {last.step + 1}: {done}")
                left.pop(0)
        return job

    def _strike(self, job: JobView) -> str | None:
        try:
            return self._striker.strike(job)
        except ApiError as error:
            if error.status == 409:  # the job has ended, or is ending already
                return None
            raise

    def _poll(self, job: JobView) -> JobView:
        """The current job; the last known one while the service does not answer."""
        self._tend()
        try:
            job = self._client.get(job.id)
        except (ApiError, Unreachable) as error:
            passing = isinstance(error, Unreachable) or error.status >= 500
            if not passing or time.monotonic() - self._heard > _SILENCE_SECONDS:
                raise
        else:
            self._heard = time.monotonic()
        return job

    def _compare(self, untouched: JobView, interrupted: JobView, fetched: Path) -> Comparison:
        """Compares the metrics and the newest common checkpoint of the two runs."""
        jobs = (untouched, interrupted)
        runs = [RunPaths(fetched / job.id) for job in jobs]
        metrics = RunPaths(Path()).metrics.as_posix()
        for job, run in zip(jobs, runs, strict=True):
            self._client.fetch(
                job.id, run.root, wanted=lambda name: name == metrics or name.endswith(".pt.json")
            )
        names = [{file.path for file in self._client.artifacts(job.id)} for job in jobs]
        step = common_step(*map(_steps, names))
        if step is not None:
            checkpoint = RunPaths(Path()).checkpoint(step).as_posix()
            for job, run in zip(jobs, runs, strict=True):
                self._client.fetch(job.id, run.root, wanted=lambda name: name == checkpoint)
        return compare(*runs)

    def _print_end(self, job: JobView) -> None:
        why = f": {job.message or job.reason}" if job.state is not State.SUCCEEDED else ""
        seconds = (job.finished_at or job.submitted_at) - job.submitted_at
        attempts = f"{job.attempt} attempt{'' if job.attempt == 1 else 's'}"
        self._console.print(
            f"   Job {job.id} {job.state} after {seconds:.1f} s, in {attempts}{why}"
        )

    def _print_resume(self, job: JobView, seconds: float) -> None:
        start = job.progress.resumed_from if job.progress else None
        where = f", from step {start}" if self._striker.ends_attempt else ""
        self._console.print(f"   training continues after {seconds:.1f} s{where}")


def _steps(names: set[str]) -> set[int]:
    """The steps with both a checkpoint and its commit record among the files."""
    paths = {Path(name) for name in names}
    steps = {step_of(path) for path in paths if commit_record(path) in paths}
    return {step for step in steps if step is not None}
