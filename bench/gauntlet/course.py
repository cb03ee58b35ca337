"""Sends one program through the gauntlet: undisturbed first, then with strikes."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from api.client.client import Client
from api.client.transport import ApiError
from api.schemas import JobView
from bench.chaos.service import Service, ServiceError, Training
from bench.gauntlet import checks
from bench.gauntlet.kinds import Kind
from bench.gauntlet.ledger import Ledger
from bench.gauntlet.strikes import Strike, Struck, execute, strikes
from jobs.model.spec import JobSpec
from monitoring.storage.base import Storage

_PACE_SECONDS = 0.1  # a step; a checkpoint every three seconds
_STEP_SECONDS = 180.0  # from one strike to the next, and to the end
_POLL_SECONDS = 0.2
_HOLD_AT = 235  # of 240 steps (tests/gauntlet/programs)
# One thread at a time looks for processes: they are reaped on the way.
_looking = threading.Lock()


@dataclass
class Result:
    """What became of one program."""

    kind: Kind
    struck: list[Struck] = field(default_factory=list)
    resumes: list[checks.Resume] = field(default_factory=list)
    flaws: list[str] = field(default_factory=list)
    state_equal: bool = False
    files_equal: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Course:
    """Where a program runs: the service, its storage, and a directory for what is found."""

    service: Service
    storage: Storage
    directory: Path
    seed: int

    def run(self, kind: Kind) -> Result:
        """Runs a kind of program twice and compares."""
        result, begun = Result(kind), time.monotonic()
        try:
            self._run(kind, result)
        except (ServiceError, TimeoutError) as error:
            result.flaws.append(str(error))
        result.seconds = time.monotonic() - begun
        return result

    def _run(self, kind: Kind, result: Result) -> None:
        slug = "".join(letter if letter.isalnum() else "_" for letter in kind.name.lower())
        place = self.directory / slug
        place.mkdir()
        hold = place / "hold"
        hold.write_text(str(_HOLD_AT))  # so that it does not end before the last strike
        twin, ledger = Ledger(place / "twin.jsonl"), Ledger(place / "ledger.jsonl")
        with Client(self.service.url) as client:
            first = client.submit(self._spec(kind, slug, twin, pace=0.0))
            job = client.submit(self._spec(kind, slug, ledger, pace=_PACE_SECONDS))
            try:
                for strike in strikes(self.seed, kind.name):
                    if not self._strike(client, job.id, ledger, strike, result):
                        result.flaws.append("it ended before all strikes were executed")
                        break
                hold.unlink()
                job = client.wait(job.id, _STEP_SECONDS)
                undisturbed = client.wait(first.id, _STEP_SECONDS)
            except TimeoutError:
                for one in (job, first):  # the other kinds need the workers
                    with suppress(ApiError):  # it has ended
                        client.cancel(one.id)
                raise
            if undisturbed.state != "succeeded":
                result.flaws.append(f"its twin {undisturbed.state}: {undisturbed.message}")
            client.fetch(job.id, place / "fetched")
            (place / "job.json").write_text(job.model_dump_json(indent=1))
        self._check(kind, result, job, ledger, twin, place)
        if not result.flaws:
            shutil.rmtree(place)

    def _check(
        self, kind: Kind, result: Result, job: JobView, ledger: Ledger, twin: Ledger, place: Path
    ) -> None:
        flaws = result.flaws
        flaws += checks.job_flaws(job, result.struck)
        events = ledger.events()
        if kind.resumes:
            for resume, flaw in checks.resumes(events, result.struck, kind.settles):
                result.resumes.append(resume)
                flaws += [flaw] if flaw else []
            flaws += checks.stop_flaws(events)
        ends = [one.last("final") for one in (ledger, twin)]
        state = list(checks.state_flaws(*(end.more["digest"] if end else None for end in ends)))
        result.state_equal = not state
        inventory = ledger.last("files")
        there = checks.of_the_program(inventory.more["files"] if inventory else {})
        files = [
            *checks.moment_flaws(self.storage, job.id, there),
            *checks.browsing_flaws(self.storage, job.id, there),
            *checks.fetched_flaws(place / "fetched", there),
        ]
        result.files_equal = not files
        flaws += state + files

    def _spec(self, kind: Kind, slug: str, ledger: Ledger, *, pace: float) -> JobSpec:
        return JobSpec.model_validate(
            {
                "name": slug,
                "command": list(kind.command),
                "env": {
                    "GAUNTLET_LEDGER": str(ledger.path),
                    "GAUNTLET_PACE": str(pace),
                    "GAUNTLET_HOLD": str(ledger.path.with_name("hold")) if pace else "",
                    "OMP_NUM_THREADS": "1",
                    **kind.env,
                },
                "retry": {"backoff_seconds": 0, "max_failures": 3},
                **kind.keys,
            }
        )

    def _strike(
        self, client: Client, job_id: str, ledger: Ledger, strike: Strike, result: Result
    ) -> bool:
        """Strikes the next attempt that has not been struck; False if the job ends before."""
        last = result.struck[-1].attempt if result.struck else 0

        def is_due() -> Training | None:
            job = client.get(job_id)
            if job.state.is_final:
                raise _EndedError
            if job.attempt <= last or job.state != "running":
                return None
            found = self._training(job_id)
            return found if strike.is_early or ledger.has_begun(job.attempt) else None

        try:
            _until(is_due, f"an attempt after attempt {last} of {job_id}")
            time.sleep(strike.after)
            training = _until(is_due, f"the program of {job_id}")
            attempt = client.get(job_id).attempt
            at = time.time()
            if training.worker is None or not execute(
                strike,
                program=training.pid,
                worker=training.worker,
                whole_tree=result.kind.launches,
            ):
                raise ServiceError(f"{strike.blow}: the program of {job_id} was gone")
        except _EndedError:
            return False
        result.struck.append(Struck(strike, attempt, at))
        return True

    def _training(self, job_id: str) -> Training | None:
        with _looking:
            found = [one for one in self.service.training() if one.job == job_id]
        return found[0] if found else None


class _EndedError(Exception):
    """The job has ended."""


def _until(condition: Callable[[], Training | None], what: str) -> Training:
    deadline = time.monotonic() + _STEP_SECONDS
    while (found := condition()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {_STEP_SECONDS:.0f} s in vain for {what}")
        time.sleep(_POLL_SECONDS)
    return found
