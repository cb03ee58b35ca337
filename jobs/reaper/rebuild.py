"""Rebuilds the record of a job from the files of its run, without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.accounts.token import AccountName
from jobs.model.record import Attempt, Origin, Progress, job_from_hash
from jobs.model.rules import decide, written
from jobs.model.spec import JobSpec
from jobs.model.states import State
from jobs.reaper.backup import RecordCopy
from jobs.store.records import RawEvent

# The worker of an attempt of which only the number is known.
UNKNOWN_WORKER = "unknown"


class Accepted(BaseModel):
    """The job as it was accepted: the content of `job.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    spec: JobSpec
    submitted_at: float
    forked_from: Origin | None = None
    owner: AccountName | None = None


@dataclass(frozen=True)
class Remains:
    """The files of a run from which its record can be rebuilt."""

    run: str
    changed_at: float  # seconds since the epoch
    record: RecordCopy | None = None
    accepted: Accepted | None = None
    receipts: Mapping[int, Attempt] = field(default_factory=dict)
    fence: int = 0  # number of the newest attempt that wrote
    checkpoint_step: int | None = None  # newest committed one

    @property
    def newest_attempt(self) -> int:
        """The highest number of an attempt in storage."""
        kept = int(self.record.fields.get("attempt", 0)) if self.record else 0
        return max(kept, self.fence)


class CannotRebuildError(Exception):
    """The files of a run do not describe its job; the message says what is missing."""


@dataclass(frozen=True)
class Rebuilt:
    """A rebuilt record: its hash and its events."""

    job_id: str
    fields: dict[str, str]
    events: list[RawEvent]
    newest_attempt: int
    source: str  # from which files, as a sentence

    @property
    def sequence(self) -> int:
        """Place in the order of submission; 0 if unknown."""
        return int(self.fields["sequence"])

    @property
    def submitted_at(self) -> float:
        """Time of the submission, seconds since the epoch."""
        return float(self.fields["submitted_at"])

    @property
    def state(self) -> State:
        """State of the job."""
        return State(self.fields["state"])


def is_forgotten(remains: Remains) -> bool:
    """Whether the job was deleted without its files."""
    return remains.record is not None and remains.record.fields.get("deleting") == "1"


def rebuild(remains: Remains) -> Rebuilt:
    """The record of the job of a run; raises `CannotRebuildError`.

    The copy of the record is the base, and newer files of the run take precedence. An attempt with
    a receipt has ended as the receipt says. One without may still run: the job is `running`, with a
    new lease, which its worker renews, or the reaper finds the attempt lost.
    """
    fields, source = _base(remains)
    known = int(fields["attempt"])
    # A receipt is written under the fence of its attempt; a later number is a file of the program.
    for number in sorted(number for number in remains.receipts if number <= remains.fence):
        newer = number > known or (number == known and fields["state"] == State.RUNNING)
        receipt = remains.receipts[number]
        if newer and receipt.reason is not None:
            fields = _ended(fields, receipt)
            source = f"{source}, ended by the receipt of attempt {number}"
        elif f"attempt:{number}" not in fields:
            fields[f"attempt:{number}"] = receipt.model_dump_json()
    newest = remains.newest_attempt
    if newest > int(fields["attempt"]):
        fields = _begun(fields, newest, remains.changed_at)
        source = f"{source}, attempt {newest} has begun since"
    if fields["state"] == State.RUNNING:
        fields = _as_far_as_storage(fields, remains.checkpoint_step)
    try:
        job_from_hash(fields)
    except ValidationError as error:
        raise CannotRebuildError(f"this version cannot read it: {error}") from error
    events = remains.record.events if remains.record else []
    return Rebuilt(remains.run, fields, events, newest, source)


def _base(remains: Remains) -> tuple[dict[str, str], str]:
    if remains.record is not None and remains.record.fields.get("id") == remains.run:
        return dict(remains.record.fields), "its record"
    accepted = remains.accepted
    if accepted is None or accepted.id != remains.run:
        raise CannotRebuildError("it has neither .record.json nor job.json")
    at = f"{accepted.submitted_at:.6f}"
    fields = {
        "id": accepted.id,
        "spec": accepted.spec.model_dump_json(),
        "pool": accepted.spec.resources.pool,
        "priority": str(accepted.spec.priority),
        "state": State.QUEUED.value,
        "sequence": "0",
        "attempt": "0",
        "submitted_at": at,
        "queued_at": at,
        "not_before": at,
    }
    if accepted.forked_from is not None:
        fields["forked_from"] = accepted.forked_from.model_dump_json()
    if accepted.owner is not None:
        fields["owner"] = accepted.owner
    if accepted.spec.notify:
        fields["notify"] = "1"
    return fields, "job.json"


def _ended(fields: dict[str, str], receipt: Attempt) -> dict[str, str]:
    """The fields after the end of an attempt, by the same rules as in the service."""
    number = receipt.number
    running = {**fields, "state": State.RUNNING.value, "attempt": str(number)}
    running[f"attempt:{number}"] = receipt.model_dump_json()
    running.setdefault("started_at", f"{receipt.started_at:.6f}")
    job = job_from_hash(running)
    decision = decide(job, receipt)
    kept, changes = written(job, receipt, decision)
    at = f"{receipt.ended_at or receipt.started_at:.6f}"
    after = {
        **running,
        **changes,
        f"attempt:{number}": kept.model_dump_json(),
        "state": decision.state.value,
        **dict.fromkeys(("worker", "request", "evicted_for", "request_before"), ""),
    }
    if decision.state is State.QUEUED:
        due = f"{float(at) + decision.delay_seconds:.6f}"
        after.update(queued_at=at, not_before=due, waits_since=due)
    elif decision.state.is_final:
        after["finished_at"] = at
    return after


def _begun(fields: dict[str, str], number: int, at: float) -> dict[str, str]:
    """The fields with a later running attempt, of which only the number is known."""
    began = Attempt(number=number, worker=UNKNOWN_WORKER, started_at=at)
    return {
        "started_at": f"{at:.6f}",
        **fields,
        "state": State.RUNNING.value,
        "attempt": str(number),
        f"attempt:{number}": began.model_dump_json(),
        "finished_at": "",
        "progress": "",
        **dict.fromkeys(("worker", "request", "evicted_for", "request_before"), ""),
    }


def _as_far_as_storage(fields: dict[str, str], checkpoint_step: int | None) -> dict[str, str]:
    """The fields with progress up to the newest checkpoint in storage."""
    seen = Progress.model_validate_json(fields.get("progress") or "{}")
    before = seen.checkpoint_step if seen.checkpoint_step is not None else -1
    if checkpoint_step is None or checkpoint_step <= before:
        return fields
    step = max(checkpoint_step, seen.step if seen.step is not None else -1)
    seen = seen.model_copy(update={"checkpoint_step": checkpoint_step, "step": step})
    return {**fields, "progress": seen.model_dump_json()}
