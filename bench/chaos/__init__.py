"""`python -m bench chaos`: real training jobs while all parts of the service are killed at random.

`spectrain up` with three workers first runs each specification undisturbed. Then jobs of these
specifications are submitted with mixed priorities, while training processes, their guards,
workers, fork servers, the API and Redis are killed or stopped by a schedule that depends on the
seed alone. In the end every job must have succeeded exactly once, with the curve and the weights
of its undisturbed reference, and nothing may be left over.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from api.client.client import Client
from api.client.transport import ClientError
from bench.chaos import checks
from bench.chaos.load import Load, specifications
from bench.chaos.results import Results
from bench.chaos.schedule import Strike, strikes, submissions
from bench.chaos.service import Service, ServiceError, wait_until
from bench.chaos.striker import Striker
from bench.report import options
from jobs.model.spec import JobSpec

_TICK_SECONDS = 0.05
_SAMPLE_SECONDS = 0.5
_REFERENCE_SECONDS = 300.0
_STUCK_SECONDS = 180.0  # without progress of any job
_SETTLE_SECONDS = 60.0
# The fraction of the run in which jobs are submitted.
_SUBMITTING = 0.75


def main(argv: Sequence[str]) -> int:
    """Run the schedule once; return 1 if anything was lost, wrong or left over."""
    parser = options("chaos", seconds=600.0, jobs=40, steps=2000, every=4.0, lease=2.0)
    parser.add_argument("--seed", type=int, help="seed of the schedule (default: random)")
    parser.add_argument("--data", type=Path, help="directory for all files, which are then kept")
    arguments = parser.parse_args(argv)
    seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    # SIGINT too: a background process of a script ignores it, and the service is stopped by it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    directory = arguments.data or Path(tempfile.mkdtemp(prefix="spectrain-chaos-"))
    directory.mkdir(exist_ok=True)
    print(f"Seed {seed}; all files are in {directory}", flush=True)
    plan = Plan(
        specifications(arguments.steps), seed, arguments.seconds, arguments.jobs, arguments.every,
        arguments.lease,
    )  # fmt: skip
    results = Run(plan, directory).execute()
    status = results.report(vars(arguments) | {"seed": seed}).show(keep=arguments.keep)
    if status == 0 and arguments.data is None:
        shutil.rmtree(directory)
    else:
        print(f"All files are in {directory}")
    return status


@dataclass(frozen=True)
class Plan:
    """The parameters of a run."""

    specs: list[JobSpec]
    seed: int
    seconds: float
    jobs: int
    every: float
    lease: float

    @property
    def strikes(self) -> list[Strike]:
        """The schedule of strikes."""
        return strikes(self.seed, seconds=self.seconds, every=self.every, lease=self.lease)


@dataclass
class Run:
    """One run of a plan, with all its files below a directory."""

    plan: Plan
    directory: Path
    results: Results = field(default_factory=Results)
    writers: checks.Writers = field(default_factory=checks.Writers)

    def execute(self) -> Results:
        """Runs the plan and returns the results; leaves no process running."""
        self.service = Service(self.directory / "data", lease=self.plan.lease)
        try:
            self.service.start()
            references = self._references()
            self._disturb()
            self._settle()
            self._check(references)
            self.results.found("processes left, or an unclean exit", self.service.stop())
            left = checks.left_below(self.service.temporary)
            self.results.found("temporary files left", left)
        except (ServiceError, ClientError, TimeoutError) as error:
            self.results.found("runs that did not finish", [f"{type(error).__name__}: {error}"])
        finally:
            self.service.kill()
        return self.results

    def _references(self) -> list[str]:
        """The ids of the undisturbed runs, one per specification."""
        with Client(self.service.url) as client:
            ids = [client.submit(spec).id for spec in self.plan.specs]
            ended = [client.wait(job_id, _REFERENCE_SECONDS) for job_id in ids]
        for job in ended:
            if list(checks.job_flaws(job)) or len(job.attempts) != 1:
                raise ServiceError(f"the undisturbed job {job.id} is {job.state}: {job.message}")
        return ids

    def _disturb(self) -> None:
        """Strikes while jobs are submitted and run, until all have ended."""
        plan, service = self.plan, self.service
        due, striker = plan.strikes, Striker(service)
        given = submissions(
            plan.seed, jobs=plan.jobs, kinds=len(plan.specs), seconds=plan.seconds * _SUBMITTING
        )
        self.load = Load(service.url, plan.specs, given)
        self.load.start()
        begun = sampled = time.monotonic()
        try:
            while due or not striker.all_resumed or not self.load.done:
                now = time.monotonic()
                while due and now - begun >= due[0].at:
                    print(f"{now - begun:6.1f} s  {striker.strike(due.pop(0), now)}", flush=True)
                striker.resume_due(now)
                if now - sampled > _SAMPLE_SECONDS:
                    self._sample()
                    sampled = now
                self._watch(now)
                time.sleep(_TICK_SECONDS)
        finally:
            striker.resume_due(float("inf"))
            self.load.stop()
        self.struck = striker.workers
        self.results.strikes(striker.struck, striker.missed)
        self.results.seconds = time.monotonic() - begun
        self.results.idle_beside_work = self.load.idle_beside_work

    def _sample(self) -> None:
        live, workers = list(self.service.training()), self.service.workers()
        self.results.found(
            "attempts with two writers, or one without its worker",
            self.writers.flaws(live, workers, time.monotonic()),
        )

    def _watch(self, now: float) -> None:
        self.service.check()
        if self.load.error is not None:
            raise ServiceError(f"the API: {self.load.error}")
        if now - self.load.progress_at > _STUCK_SECONDS:
            raise ServiceError(f"no job has made progress for {_STUCK_SECONDS:.0f} s")

    def _settle(self) -> None:
        """Waits until nothing is left to do; what remains then is a flaw."""

        def is_idle() -> bool:
            return not any(chain(checks.left_in_redis(redis), self._left_on_disk()))

        with self.service.redis() as redis:
            try:
                wait_until(is_idle, _SETTLE_SECONDS, "no work left")
            except ServiceError:
                self.results.found("entries left in Redis", checks.left_in_redis(redis))
                self.results.found("files left on the scratch disk", self._left_on_disk())

    def _left_on_disk(self) -> Iterator[str]:
        yield from checks.left_below(self.service.scratch)

    def _check(self, references: list[str]) -> None:
        """Checks every job and everything that is left over."""
        plan, storage, found = self.plan, self.service.storage, self.results.found
        with Client(self.service.url) as client:
            there = len(list(client.list(limit=None))) - len(references)
            found(
                "jobs lost or duplicated", [f"{there} of {plan.jobs}"] if there != plan.jobs else []
            )
            for accepted in self.load.accepted:
                job = client.get(accepted.id)
                spec = plan.specs[accepted.kind]
                last = spec.train.steps - 1 if spec.train else 0
                self.results.jobs.append(job)
                found("jobs that did not succeed exactly once", checks.job_flaws(job))
                found(
                    "inconsistent histories",
                    checks.history_flaws(job.id, client.events(job.id)),
                )
                found("receipts missing or wrong", checks.receipt_flaws(storage, job))
                found(
                    "curves or weights that differ from the reference",
                    checks.reference_flaws(storage, job.id, references[accepted.kind], last),
                )
                found("log lines of an overtaken attempt", checks.log_flaws(storage, job))
        found(
            "attempts lost although their worker was not struck",
            checks.needless_losses(self.results.jobs, self.struck),
        )
        found("temporary files left", checks.left_in_storage(storage))
        for path in sorted((self.service.data / "logs").glob("*.log")):
            self.results.overtaken += len(checks.log_lines(path, "was overtaken"))
            traces = checks.log_lines(path, "Traceback")
            self.results.errors += [f"{path.name}: {line}" for line in traces]
