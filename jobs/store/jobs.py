"""The jobs in Redis, the source of truth about their states."""

from __future__ import annotations

import json
import logging
import random
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from redis import Redis
from redis.exceptions import NoPermissionError

from jobs.errors import (
    ClaimRefusedError,
    IdempotencyConflictError,
    IllegalMoveError,
    JobNotFoundError,
    RecordGoneError,
    StaleAttemptError,
)
from jobs.model.change import JobChange
from jobs.model.record import (
    Attempt,
    Event,
    Job,
    JobEvent,
    Origin,
    Progress,
    job_from_hash,
)
from jobs.model.rules import decide, written
from jobs.model.spec import JobSpec, Limits
from jobs.model.states import Reason, Request, State
from jobs.settings import Settings
from jobs.store.clock import redis_time
from jobs.store.counters import increments
from jobs.store.keys import Keys
from jobs.store.proofs import Proofs
from jobs.store.queues import ExpiredLease, Queues
from jobs.store.reading import event_of, readable
from jobs.store.records import RawRecords
from jobs.store.scripts import Scripts
from jobs.store.snapshot import Snapshot, take_snapshot
from jobs.store.submission import submission

log = logging.getLogger(__name__)

_PAGE = 200
_FOLLOWED_SECONDS = 15


class JobStore:
    """Reads and changes jobs; a change that state or fencing number forbid is refused.

    All methods raise one of `jobs.errors.STORE_AWAY` while Redis is unreachable. They may then be
    called again: each gives the same answer twice.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        prefix: str = "spectrain:",
        lease_seconds: float,
        aging_seconds: float = 3600.0,
    ) -> None:
        # Any: the library's types cannot know that this client answers in `str`.
        self.redis: Any = redis
        self.keys = Keys(prefix)
        self.lease_seconds = lease_seconds
        self.aging_seconds = aging_seconds
        self._run = Scripts(redis, prefix)
        self.queues = Queues(redis, self.keys, aging_seconds, self._run)
        self.records = RawRecords(redis, prefix)
        self.proofs = Proofs(redis, prefix)

    @property
    def prefix(self) -> str:
        """What every key begins with."""
        return self.keys.prefix

    # -- submit and read ------------------------------------------------------------------

    def submit(
        self,
        spec: JobSpec,
        *,
        idempotency_key: str | None = None,
        owner: str | None = None,
        job_id: str | None = None,
        forked_from: Origin | None = None,
        asked: str = "",
    ) -> Job:
        """Queues a new job of an owner; returns their first one for the same `idempotency_key`.

        `job_id` is its id, by default a new one; `forked_from` the run that it begins from, whose
        files are in their place already. Raises `IdempotencyConflictError` when the key was used
        with another specification, or with something else `asked` for.
        """
        status, found = "taken", ""
        while status == "taken":  # by chance: then another id
            arguments = submission(
                spec, idempotency_key=idempotency_key, owner=owner, job_id=job_id,
                forked_from=forked_from, asked=asked,
            )  # fmt: skip
            status, found = self._run("jobs/submit", *arguments)
            if status == "taken" and job_id is not None:
                raise ValueError(f"There is another job {job_id}.")
        if status == "changed":
            raise IdempotencyConflictError(idempotency_key or "", found)
        return self.get(found)

    def get(self, job_id: str) -> Job:
        """The job; raises `JobNotFoundError`."""
        fields = self.redis.hgetall(self.keys.job(job_id))
        if not fields:
            raise JobNotFoundError(job_id)
        return job_from_hash(fields)

    def owner(self, job_id: str) -> str | None:
        """The owner of a job; raises `JobNotFoundError`."""
        state, owner = self.redis.hmget(self.keys.job(job_id), "state", "owner")
        if state is None:
            raise JobNotFoundError(job_id)
        return owner or None

    def newest(self, *, state: State | None = None, before: int | None = None) -> Iterator[Job]:
        """The jobs submitted before sequence number `before`, newest first."""
        index = self.keys.jobs_in(state) if state else self.keys.jobs
        bound = "+inf" if before is None else f"({before}"
        while found := self.redis.zrevrangebyscore(
            index, bound, "-inf", start=0, num=_PAGE, withscores=True
        ):
            jobs = self.get_many([job_id for job_id, _ in found])
            yield from (job for job in jobs if job and (state is None or job.state is state))
            bound = f"({found[-1][1]:.0f}"

    def get_many(self, ids: Sequence[str]) -> list[Job | None]:
        """The jobs of the ids; None for one that is gone, or that cannot be read."""
        with self.redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(self.keys.job(job_id))
            return [readable(fields) for fields in pipe.execute()] if ids else []

    def last_event(self) -> str:
        """The id of the newest event of all jobs: another one after each change of a record."""
        newest = self.redis.xrevrange(self.keys.all_events, "+", "-", count=1)
        return str(newest[0][0]) if newest else ""

    def events(self, job_id: str, *, after: str = "-", limit: int = 1000) -> list[Event]:
        """The events of a job after the event id `after`, oldest first."""
        start = after if after == "-" else f"({after}"
        entries = self.redis.xrange(self.keys.events(job_id), start, "+", count=limit)
        return [Event.model_validate(event_of(*entry)) for entry in entries]

    def all_events(self, *, after: str | None = None, limit: int = 1000) -> list[JobEvent]:
        """The events of all jobs after the event id `after`, oldest first; None: the newest."""
        if after is None:
            entries = self.redis.xrevrange(self.keys.all_events, "+", "-", count=limit)[::-1]
        else:
            entries = self.redis.xrange(self.keys.all_events, f"({after}", "+", count=limit)
        return [JobEvent.model_validate(event_of(*entry)) for entry in entries]

    # -- calls of a user ---------------------------------------------------------------

    def request(self, job_id: str, request: Request) -> Job:
        """Requests a running job to stop; a cancel of a job that does not run takes effect at once.

        Raises `JobNotFoundError`, and `IllegalMoveError` when the state of the job forbids it.
        """
        requests, mark = json.dumps(list(Request)), secrets.token_hex(4)
        answer = self._run("jobs/request", job_id, request, requests, "", "", mark)
        return self._after(answer, job_id, request.value)

    def resume(self, job_id: str) -> Job:
        """Queues a paused job again, or withdraws a pending pause. Raises like `request`."""
        return self._after(self._run("jobs/resume", job_id, secrets.token_hex(4)), job_id, "resume")

    def retry(self, job_id: str) -> Job:
        """Queues a failed or cancelled job again with full budgets; its run continues.

        Raises like `request`.
        """
        return self._after(self._run("jobs/retry", job_id, secrets.token_hex(4)), job_id, "retry")

    def change(self, job_id: str, change: JobChange) -> Job:
        """Changes the specification of a job; a running attempt follows within seconds.

        Raises like `request`, and pydantic.ValidationError for an invalid specification.
        """
        while True:
            text = self.redis.hget(self.keys.job(job_id), "spec")
            if text is None:
                raise JobNotFoundError(job_id)
            spec = change.apply(JobSpec.model_validate_json(text))
            answer = self._run(
                "jobs/change", job_id, text, spec.model_dump_json(), spec.priority,
                change.model_dump_json(exclude_unset=True),
            )  # fmt: skip
            if answer[0] != "changed":
                return self._after(answer, job_id, "change")

    def mark_deleted(self, job_id: str) -> None:
        """Marks a job in a final state, so that no retry can revive it; raises like `request`."""
        status, detail = self._run("jobs/delete", job_id, "mark")
        self._refuse(status, detail, job_id, "delete")

    def delete(self, job_id: str) -> None:
        """Removes the record of a job in a final state, if any; raises `IllegalMoveError`."""
        status, detail = self._run("jobs/delete", job_id, "remove")
        self._refuse(status, detail, job_id, "delete")

    # -- calls of an attempt -------------------------------------------------------------

    def claim(self, pool: str, worker: str) -> Job | None:
        """Claims the next job of a pool, with a new attempt and its lease; None when none waits.

        `worker` names one process of a worker, which runs one job at a time. Raises
        `ClaimRefusedError` when that worker is registered as draining or unhealthy.
        """
        status, job_id = self._run(
            "attempts/claim", pool, worker, self.lease_seconds, self.aging_seconds
        )
        if status == "illegal":
            raise ClaimRefusedError(worker, job_id)
        if status != "ok":
            return None
        try:
            job = self.get(job_id)
        except ValidationError as error:
            self._fail_unreadable(job_id, worker, error)
            return None
        # The lease may have expired between the two calls.
        return job if job.state is State.RUNNING and job.worker == worker else None

    def renew(
        self, job_id: str, attempt: int, progress: Progress | None = None, worker: str | None = None
    ) -> Request | None:
        """Renews the lease of an attempt for another period; returns the pending request to it.

        Raises `StaleAttemptError` when it is not the current attempt, or not that of `worker`, and
        its subclass `RecordGoneError` when Redis has no record of the job.
        """
        text = progress.model_dump_json() if progress else ""
        status, detail = self._run(
            "attempts/renew", job_id, attempt, self.lease_seconds, text, worker or ""
        )
        if status == "missing":
            raise RecordGoneError(job_id, attempt, detail)
        if status != "ok":
            raise StaleAttemptError(job_id, attempt)
        return Request(detail) if detail else None

    def note(self, job_id: str, attempt: int, kind: str, data: Mapping[str, Any]) -> None:
        """Adds an event to a running job; raises `StaleAttemptError`, `JobNotFoundError`."""
        status, _ = self._run("attempts/note", job_id, attempt, kind, json.dumps(data))
        if status == "missing":
            raise JobNotFoundError(job_id)
        if status != "ok":
            raise StaleAttemptError(job_id, attempt)

    def follow(self, job_id: str) -> None:
        """Notes that somebody reads the log or metrics of a job now."""
        self.redis.set(self.keys.followed(job_id), "1", ex=_FOLLOWED_SECONDS)

    def is_followed(self, job_id: str) -> bool:
        """Whether somebody has read the log or metrics of a job lately."""
        return bool(self.redis.exists(self.keys.followed(job_id)))

    def limits(self, job_id: str) -> Limits:
        """The current limits of a job, which may change while it runs."""
        text = self.redis.hget(self.keys.job(job_id), "spec")
        if text is None:
            raise JobNotFoundError(job_id)
        return JobSpec.model_validate_json(text).limits

    def finish(
        self,
        job_id: str,
        ended: Attempt,
        *,
        retryable: bool = True,
        progress: Progress | None = None,
        lease: ExpiredLease | None = None,
    ) -> Job | None:
        """Ends an attempt; returns the job as `jobs.model.rules.decide` has it.

        `progress` is the last progress, by default that of the last renewal. With `lease` the
        reaper ends the attempt, unless the lease was renewed since: then None. Raises
        `StaleAttemptError` when the attempt is not the current one, and `JobNotFoundError`.
        """
        while True:
            job = self.get(job_id)
            decision = decide(job, ended, jitter=random.random(), retryable=retryable)
            receipt, fields = written(job, ended, decision)
            if progress is not None:
                fields["progress"] = progress.model_dump_json()
            event = {"attempt": ended.number, "reason": ended.reason, "message": decision.message}
            status, detail = self._run(
                "attempts/finish",
                job_id,
                ended.number,
                decision.state,
                job.request or "",
                repr(lease.expired_at) if lease else "",
                decision.delay_seconds,
                json.dumps(fields),
                receipt.model_dump_json(),
                json.dumps(event),
                json.dumps(increments(receipt, decision.state)),
            )
            if status == "stale":
                raise StaleAttemptError(job_id, ended.number)
            if (status, detail) == ("changed", "lease"):
                return None
            if status != "changed":
                self._refuse(status, detail, job_id, "finish")
                return self.get(job_id)

    # -- calls of the reaper -------------------------------------------------------------

    def evict(self, job_id: str, attempt: int, for_job: str) -> bool:
        """Requests an attempt to make room for a waiting job; whether that was still possible."""
        requests = json.dumps(list(Request))
        mark = secrets.token_hex(4)
        status, _ = self._run(
            "jobs/request", job_id, Request.EVICT, requests, attempt, for_job, mark
        )
        return status == "ok"

    def now(self) -> float:
        """Seconds since the epoch by the clock of Redis."""
        return redis_time(self.redis)

    def epoch(self) -> str | None:
        """Identifies the data of this Redis: a reset changes it. None before the first claim."""
        return self.redis.get(self.keys.epoch) or None

    def reaped_at(self) -> float | None:
        """Time of the reaper's last pass, seconds since the epoch; None before the first."""
        found = self.redis.get(self.keys.reaped)
        return float(found) if found else None

    def snapshot(self) -> Snapshot:
        """The numbers that a scrape reports."""
        return take_snapshot(self.redis, self.keys)

    def uptime(self) -> float:
        """Seconds for which Redis has been up; negative if its user may not ask that."""
        try:
            return float(self.redis.info("server")["uptime_in_seconds"])
        except NoPermissionError:
            return -1.0

    # -- the rest -------------------------------------------------------------------------

    def _fail_unreadable(self, job_id: str, worker: str, error: ValidationError) -> None:
        """Fails a claimed job whose record this version cannot read, so that the queue moves on."""
        log.error("the record of job %s cannot be read: %s", job_id, error)
        attempt = int(self.redis.hget(self.keys.job(job_id), "attempt"))
        now = self.now()
        message = "this version of Spectrain cannot read the job's record"
        receipt = Attempt(
            number=attempt, worker=worker, started_at=now, ended_at=now,
            reason=Reason.ERROR, message=message,
        )  # fmt: skip
        fields = json.dumps({"reason": Reason.ERROR, "message": message})
        self._run(
            "attempts/finish", job_id, attempt, State.FAILED, "", "", 0, fields,
            receipt.model_dump_json(), json.dumps({"attempt": attempt, "message": message}),
            json.dumps(increments(receipt, State.FAILED)),
        )  # fmt: skip

    def _after(self, answer: tuple[str, str], job_id: str, action: str) -> Job:
        self._refuse(*answer, job_id, action)
        return self.get(job_id)

    @staticmethod
    def _refuse(status: str, detail: str, job_id: str, action: str) -> None:
        if status == "missing":
            raise JobNotFoundError(job_id)
        if status != "ok":
            raise IllegalMoveError(job_id, action, detail)


def open_store(redis: Redis, settings: Settings) -> JobStore:
    """The store of a service's settings."""
    return JobStore(
        redis,
        prefix=settings.redis_prefix,
        lease_seconds=settings.lease_seconds,
        aging_seconds=settings.aging_seconds,
    )
