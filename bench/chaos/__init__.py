"""`python -m bench chaos`: jobs that train for real while everything is killed at random.

`spectrain up` with three workers runs some specifications undisturbed; then jobs of those
specifications and of mixed priority are submitted, while training processes, their guards,
workers, launchers, the API and Redis are killed or stopped by a schedule that the seed alone
determines. At the end every job must have succeeded once, with the curve and the weights of its
undisturbed reference, and nothing may be left.
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
_TWIN_SECONDS = 300.0
_STUCK_SECONDS = 180.0  # how long no job may get on
_SETTLE_SECONDS = 60.0
# The share of the time in which jobs are submitted.
_SUBMITTING = 0.75


def main(argv: Sequence[str]) -> int:
    """Carry one run out; 1 when anything was lost, wrong or left."""
    parser = options("chaos", seconds=600.0, jobs=40, steps=2000, every=4.0, lease=2.0)
    parser.add_argument("--seed", type=int, help="repeats the strikes of a run (default: random)")
    parser.add_argument("--data", type=Path, help="keep everything there")
    arguments = parser.parse_args(argv)
    seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    # The first too: it is ignored in the background of a script, and the service stops by it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    directory = arguments.data or Path(tempfile.mkdtemp(prefix="spectrain-chaos-"))
    directory.mkdir(exist_ok=True)
    print(f"Seed {seed}; everything is in {directory}", flush=True)
    plan = Plan(
        specifications(arguments.steps), seed, arguments.seconds, arguments.jobs, arguments.every,
        arguments.lease,
    )  # fmt: skip
    results = Run(plan, directory).carry_out()
    status = results.report(vars(arguments) | {"seed": seed}).show(keep=arguments.keep)
    if status == 0 and arguments.data is None:
        shutil.rmtree(directory)
    else:
        print(f"Everything is in {directory}")
    return status


@dataclass(frozen=True)
class Plan:
    """What is to be done."""

    specs: list[JobSpec]
    seed: int
    seconds: float
    jobs: int
    every: float
    lease: float

    @property
    def strikes(self) -> list[Strike]:
        """What is struck when."""
        return strikes(self.seed, seconds=self.seconds, every=self.every, lease=self.lease)


@dataclass
class Run:
    """One run of a plan below a directory."""

    plan: Plan
    directory: Path
    results: Results = field(default_factory=Results)
    writers: checks.Writers = field(default_factory=checks.Writers)

    def carry_out(self) -> Results:
        """What came of it; nothing is left running."""
        self.service = Service(self.directory / "data", lease=self.plan.lease)
        try:
            self.service.start()
            references = self._references()
            self._disturb()
            self._settle()
            self._judge(references)
            self.results.found("processes left, or a bad end", self.service.stop())
            left = checks.left_below(self.service.temporary)
            self.results.found("temporary files left", left)
        except (ServiceError, ClientError, TimeoutError) as error:
            self.results.found("runs that came to no end", [f"{type(error).__name__}: {error}"])
        finally:
            self.service.kill()
        return self.results

    def _references(self) -> list[str]:
        """The ids of the undisturbed runs, one a specification."""
        with Client(self.service.url) as client:
            ids = [client.submit(spec).id for spec in self.plan.specs]
            ended = [client.wait(job_id, _TWIN_SECONDS) for job_id in ids]
        for job in ended:
            if list(checks.job_flaws(job)) or len(job.attempts) != 1:
                raise ServiceError(f"the undisturbed job {job.id} is {job.state}: {job.message}")
        return ids

    def _disturb(self) -> None:
        """Strikes while jobs come and go, until all have ended."""
        plan, service = self.plan, self.service
        due, striker = plan.strikes, Striker(service)
        given = submissions(
            plan.seed, jobs=plan.jobs, kinds=len(plan.specs), seconds=plan.seconds * _SUBMITTING
        )
        self.load = Load(service.url, plan.specs, given)
        self.load.start()
        begun = sampled = time.monotonic()
        try:
            while due or not striker.all_go or not self.load.done:
                now = time.monotonic()
                while due and now - begun >= due[0].at:
                    print(f"{now - begun:6.1f} s  {striker.strike(due.pop(0), now)}", flush=True)
                striker.let_go(now)
                if now - sampled > _SAMPLE_SECONDS:
                    self._sample()
                    sampled = now
                self._watch(now)
                time.sleep(_TICK_SECONDS)
        finally:
            striker.let_go(float("inf"))
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
        if now - self.load.moved_at > _STUCK_SECONDS:
            raise ServiceError(f"no job has got on for {_STUCK_SECONDS:.0f} s")

    def _settle(self) -> None:
        """Returns when nothing is to be done any more; what never comes to rest is told later."""

        def at_rest() -> bool:
            return not any(chain(checks.left_in_redis(redis), self._left_on_disk()))

        with self.service.redis() as redis:
            try:
                wait_until(at_rest, _SETTLE_SECONDS, "it comes to rest")
            except ServiceError:
                self.results.found("entries left in Redis", checks.left_in_redis(redis))
                self.results.found("files left on the scratch disk", self._left_on_disk())

    def _left_on_disk(self) -> Iterator[str]:
        yield from checks.left_below(self.service.scratch)

    def _judge(self, references: list[str]) -> None:
        """Looks at every job and at all that is left."""
        plan, storage, found = self.plan, self.service.storage, self.results.found
        with Client(self.service.url) as client:
            there = len(list(client.list(limit=None))) - len(references)
            found("jobs lost or doubled", [f"{there} of {plan.jobs}"] if there != plan.jobs else [])
            for accepted in self.load.accepted:
                job = client.get(accepted.id)
                spec = plan.specs[accepted.kind]
                last = spec.train.steps - 1 if spec.train else 0
                self.results.jobs.append(job)
                found("jobs that did not succeed exactly once", checks.job_flaws(job))
                found(
                    "histories that make no sense",
                    checks.history_flaws(job.id, client.events(job.id)),
                )
                found("receipts missing or wrong", checks.receipt_flaws(storage, job))
                found(
                    "curves or weights that differ from the reference",
                    checks.reference_flaws(storage, job.id, references[accepted.kind], last),
                )
                found("words of an overtaken attempt", checks.log_flaws(storage, job))
        found(
            "attempts lost though nobody touched their worker",
            checks.needless_losses(self.results.jobs, self.struck),
        )
        found("temporary files left", checks.left_in_storage(storage))
        for path in sorted((self.service.data / "logs").glob("*.log")):
            self.results.overtaken += len(checks.log_lines(path, "was overtaken"))
            traces = checks.log_lines(path, "Traceback")
            self.results.errors += [f"{path.name}: {line}" for line in traces]
