"""The record of a job: frozen values without I/O."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request, State

# No vowels, so that an id spells no word, and no characters that look alike.
_ALPHABET = "23456789bcdfghjkmnpqrstvwxz"
_ID = re.compile(rf"[a-z0-9_-]{{1,63}}-[{_ALPHABET}]{{8}}")


# JSON has no NaN and no infinity. Everywhere in the service they are the texts that the monitoring
# library writes.
NonFinite = Literal["NaN", "Infinity", "-Infinity"]
Real = Annotated[
    float,
    WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"enum": [*get_args(NonFinite)]}]}, mode="serialization"
    ),
]


# Where steps are read if the program does not count them with the library.
StepSource = Literal["output", "trainer_state", "metrics_csv", "tensorboard"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Origin(_Value):
    """Where a job began that goes on from the run of another one."""

    job: str = Field(description="Id of the job whose run it began from.")
    step: int | None = Field(
        description="Step of the checkpoint that it began from; null: from the files of the run."
    )


class Measures(_Value):
    """What an attempt has done and what it cost, as far as its supervisor knows."""

    first_step: int | None = Field(None, description="First step of the attempt.")
    resumed_from: int | None = Field(
        None, description="Step of the checkpoint that the attempt resumed from; null: from none."
    )
    resumed_checksum: str | None = Field(
        None, description="Checksum of that checkpoint, as in its commit record."
    )
    steps_before: int | None = Field(
        None, description="Last step of which earlier attempts published metrics."
    )
    checkpoint_step: int | None = Field(
        None,
        description="Step of the newest committed checkpoint that the service heard of. A lost "
        "worker may have published one more, which the next attempt then resumes from.",
    )
    workspace_seconds: float | None = Field(
        None,
        description="Time to fetch the workspace, unless this machine had it, and to copy it, "
        "seconds; null without one.",
    )
    inputs_seconds: float | None = Field(
        None,
        description="Time to fetch the inputs, unless this machine had them, seconds; null without "
        "any.",
    )
    inputs_bytes: int | None = Field(None, description="Size of the inputs, bytes.")
    inputs: dict[str, str] = Field(
        default_factory=dict,
        description="Version of each input, by name: a hash of its files' names, sizes and ETags.",
    )
    environment_seconds: float | None = Field(
        None,
        description="Time to build the environment, unless this machine had it, seconds; null "
        "without one.",
    )
    setup_seconds: float | None = Field(
        None, description="Time that the commands of `setup` took, seconds; null without any."
    )
    restore_seconds: float | None = Field(
        None, description="Time to fetch and verify the files of the run, seconds."
    )
    restored_files: int | None = Field(
        None, description="Number of files of earlier attempts that the attempt began with."
    )
    restored_bytes: int | None = Field(None, description="Size of those files, bytes.")
    restored_newest: str | None = Field(
        None, description="Path of the newest of those files; null for none."
    )
    restored_newest_at: float | None = Field(
        None, description="Time of its last change, seconds since the epoch."
    )
    first_step_seconds: float | None = Field(
        None, description="Time from the claim to the end of the first step, seconds."
    )
    step_seconds: float | None = Field(
        None,
        description="Time from the end of the first step to the end of the last one, seconds; null "
        "if the program counts no steps.",
    )
    step_source: StepSource | None = Field(
        None,
        description="Where the last step was read: `output` by `progress`, a Trainer's "
        "`trainer_state`, a `metrics_csv` or `tensorboard` files. null: the program counts its "
        "steps, or no step is known.",
    )
    uploaded_bytes: int = Field(0, description="Bytes published to storage.")


class Attempt(Measures):
    """The receipt of one attempt."""

    number: int = Field(description="1 for the first attempt; also the fencing number of writes.")
    worker: str = Field(description="Name of the worker that ran the attempt.")
    started_at: float = Field(description="Time of the claim, seconds since the epoch.")
    ended_at: float | None = Field(
        None, description="Time of the end, seconds since the epoch; null while it runs."
    )
    reason: Reason | None = Field(None, description="Why the attempt ended; null while it runs.")
    message: str = Field("", description="Why the attempt ended, as a sentence.")
    exit_code: int | None = Field(
        None, description="Exit status of the program; 128 + N when signal N ended it."
    )
    last_step: int | None = Field(None, description="Last completed step.")
    steps_recomputed: int | None = Field(
        None,
        description="Steps of this attempt that an earlier one had completed already; null if the "
        "program counts no steps.",
    )
    queue_seconds: float | None = Field(
        None, description="Time in the queue before the claim, backoff excluded, seconds."
    )
    forked_from: Origin | None = Field(
        None, description="The run that the job began from; null: it began with nothing."
    )
    moment: str | None = Field(
        None, description="Moment of the run that the attempt started from; null for none."
    )
    detect_seconds: float | None = Field(
        None,
        description="Time from the last sign of life of a lost attempt to the verdict, seconds.",
    )
    log_tail: list[str] = Field(
        default_factory=list, description="Last lines of output of an attempt that failed."
    )

    @property
    def useful_seconds(self) -> float | None:
        """Time spent on steps that no earlier attempt had completed, seconds.

        None if it is not known: the program counted no steps, or one.
        """
        if self.first_step is None or self.last_step is None or not self.step_seconds:
            return None
        done = self.last_step - self.first_step + 1
        return self.step_seconds * max(0, done - (self.steps_recomputed or 0)) / max(1, done)

    def receipt(self) -> bytes:
        """The content of `attempts/N.json` in storage."""
        return self.model_dump_json(indent=2).encode()


class Progress(Measures):
    """How far the current attempt is."""

    step: int | None = Field(None, description="Last completed step.")
    total_steps: int | None = Field(None, description="Steps of the whole run, if known.")
    seconds_left: Real | None = Field(
        None, description="Time to the last step at the pace of this attempt, seconds, if known."
    )
    loss: Real | None = Field(
        None,
        description="Loss of the newest row of metrics; the text `NaN`, `Infinity` or `-Infinity` "
        "for a loss that is not finite.",
    )
    tokens_per_second: Real | None = Field(
        None, description="Throughput in the newest row of metrics, tokens per second."
    )


class Verdict(_Value):
    """What a drill found: whether a run that was interrupted is the run that was not."""

    verdict: Literal["identical", "differs", "inconclusive"] = Field(
        description="`identical`: all metrics digit for digit, the weights bit for bit. "
        "`inconclusive`: a run failed, an interruption did not take place, or there was nothing to "
        "compare."
    )
    step: int | None = Field(
        None, description="First step at which the runs differ; null if they do not."
    )
    message: str = Field("", max_length=2000, description="The verdict as a sentence.")
    interruptions: int = Field(0, ge=0, description="How often the run was interrupted.")
    jobs: list[str] = Field(
        default_factory=list,
        max_length=2,
        description="Ids of the jobs that were compared: the uninterrupted one first.",
    )


class Proof(Verdict):
    """The verdict of the last drill of a job."""

    at: float = Field(description="Time of the verdict, seconds since the epoch.")


class Job(_Value):
    """A job as Redis has it."""

    id: str = Field(description="Name and eight random characters: `wave-7k2mx9qd`.")
    spec: JobSpec = Field(description="The specification as it is now.")
    state: State = Field(description="State of the job.")
    owner: str | None = Field(
        None, description="Account that submitted the job; null: nobody had a name."
    )
    sequence: int = Field(description="Place in the order of submission.")
    attempt: int = Field(0, description="Number of the newest attempt; 0 before the first.")
    priority: int = Field(description="0 (lowest) to 9 (highest).")
    reason: Reason | None = Field(None, description="Why the last attempt ended.")
    message: str = Field("", description="Why the job is in this state, as a sentence.")
    request: Request | None = Field(
        None, description="Pending request to the running attempt, null for none."
    )
    worker: str | None = Field(None, description="Name of the worker that runs the job.")
    failures: int = Field(0, description="Failures since the last progress.")
    no_progress: int = Field(0, description="Attempts lost in a row without a new checkpoint.")
    checkpoint_step: int | None = Field(
        None, description="Step of the newest committed checkpoint."
    )
    run_seconds: float = Field(0.0, description="Run time of all ended attempts, seconds.")
    progress: Progress | None = Field(None, description="How far the current attempt is.")
    submitted_at: float = Field(description="Time of the submission, seconds since the epoch.")
    queued_at: float = Field(
        description="Time when the job last entered the queue, seconds since the epoch."
    )
    not_before: float = Field(
        0.0, description="Time when the backoff of a queued job ends, seconds since the epoch."
    )
    started_at: float | None = Field(
        None, description="Time of the first claim, seconds since the epoch."
    )
    finished_at: float | None = Field(
        None, description="Time when the job entered its final state, seconds since the epoch."
    )
    forked_from: Origin | None = Field(
        None, description="The run that the job began from; null: it began with nothing."
    )
    attempts: list[Attempt] = Field(
        default_factory=list, description="Receipts of all attempts, oldest first."
    )
    proof: Proof | None = Field(
        None, description="Verdict of the last `spectrain drill` of this job; null for none."
    )

    @property
    def current(self) -> Attempt | None:
        """The running attempt, or the last one."""
        return self.attempts[-1] if self.attempts else None

    def goodput_at(self, now: float) -> float | None:
        """Useful step time as a share of the time since the first start; None if it is not known.

        Steps of the running attempt count as of its last lease renewal. `now` is in seconds since
        the epoch.
        """
        attempts = self.attempts
        if self.state is State.RUNNING and self.progress is not None:
            attempts = [*attempts, self.so_far(attempts[-1], self.progress)]
        useful = [one.useful_seconds for one in attempts if one.useful_seconds is not None]
        if self.started_at is None or not useful:
            return None
        return sum(useful) / max((self.finished_at or now) - self.started_at, 1e-9)

    def so_far(self, attempt: Attempt, seen: Progress) -> Attempt:
        """The receipt of the attempt, with the progress `seen`."""
        measures = {name: getattr(seen, name) for name in Measures.model_fields}
        return attempt.model_copy(
            update={
                **measures,
                "last_step": seen.step,
                "steps_recomputed": self._steps_recomputed(seen),
                "forked_from": self.forked_from,
            }
        )

    def _steps_recomputed(self, seen: Progress) -> int | None:
        """The number of steps of the current attempt that an earlier one had completed.

        The record has the steps of a lost attempt as of its last renewal; its published metrics
        may show later ones.
        """
        known = [step for step in (self.last_step, seen.steps_before) if step is not None]
        if seen.first_step is None or seen.step is None:
            return None
        if not known:
            return 0
        return max(0, min(max(known), seen.step) - seen.first_step + 1)

    @property
    def last_step(self) -> int | None:
        """The highest step that any ended attempt is known to have completed."""
        steps = [a.last_step for a in self.attempts if a.last_step is not None]
        return max(steps, default=None)


class Event(_Value):
    """An event in the life of a job."""

    id: str = Field(description="Id of the event, in order: the id of its stream entry.")
    at: float = Field(description="Time of the event, seconds since the epoch.")
    type: str = Field(description="Kind of event: submitted, started, requested, requeued, …")
    data: dict[str, Any] = Field(
        default_factory=dict,
        description="Details, by the kind of event; those of `changed` are what was sent.",
    )
    by: str | None = Field(
        None, description="Account whose call caused it; null: no call, or one without a name."
    )
    address: str | None = Field(
        None, description="Address of the client that made the call; null: no call caused it."
    )


class JobEvent(Event):
    """An event, and whose it is."""

    job: str = Field(description="Id of the job.")


def new_job_id(name: str) -> str:
    """A new id: the name of the job and eight random characters."""
    return f"{name}-{''.join(secrets.choice(_ALPHABET) for _ in range(8))}"


def is_job_id(text: str) -> bool:
    """Whether a text has the form of a job id."""
    return _ID.fullmatch(text) is not None


_DOCUMENTS: Mapping[str, type[_Value]] = {
    "progress": Progress, "proof": Proof, "forked_from": Origin,
}  # fmt: skip


def job_from_hash(fields: Mapping[str, str]) -> Job:
    """The job that a Redis hash holds.

    Scalars are plain fields, so that scripts can read them. `spec`, `progress`, `proof`,
    `forked_from` and each `attempt:N` are JSON. An empty string means none.
    """
    attempts = sorted(
        (Attempt.model_validate_json(v) for k, v in fields.items() if k.startswith("attempt:")),
        key=lambda attempt: attempt.number,
    )
    # `order` and `pool` are for the scripts; the specification has both.
    plain = {k: v for k, v in fields.items() if k in Job.model_fields and v != ""}
    spec = JobSpec.model_validate_json(plain.pop("spec"))
    documents = {name: plain.pop(name, None) for name in _DOCUMENTS}
    return Job.model_validate(
        {
            **plain,
            "spec": spec,
            "attempts": attempts,
            **{
                name: model.model_validate_json(text)
                for name, model in _DOCUMENTS.items()
                if (text := documents[name]) is not None
            },
        }
    )
