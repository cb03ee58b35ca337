"""What goes over the wire beside a job's specification: the models that server and client share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from jobs.model.record import Event, Job
from jobs.model.states import State
from jobs.model.workers import Pool, Worker

JOB_ID = r"[a-z0-9_-]{1,63}-[2-9b-df-hj-np-tv-xz]{8}"
NEXT_OFFSET = "Spectrain-Next-Offset"
JOB_STATE = "Spectrain-Job-State"
IDEMPOTENCY_KEY = "Idempotency-Key"
INSTANCE = "Spectrain-Instance"


class _Wire(BaseModel):
    """A newer server may say more than an older client knows."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class JobView(Job):
    """A job, and what only the service can tell about it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    queue_position: int | None = Field(
        None, description="Jobs of its pool that go before it; null unless it waits for a worker."
    )
    goodput: float | None = Field(
        None,
        description="Time spent on steps that count, as a share of the time since the first start; "
        "null for a job without steps.",
    )
    files: str = Field("", description="URL of the run's directory in storage.")


class JobPage(_Wire):
    """Jobs, newest first."""

    jobs: list[Job]
    cursor: str | None = Field(
        None, description="Give it back for the next page; null on the last one."
    )


class EventPage(_Wire):
    """What happened to a job, oldest first."""

    events: list[Event]
    after: str | None = Field(
        None, description="Give it back for what happened since; null before the first event."
    )


class MetricsPage(_Wire):
    """Rows of a run's metrics.jsonl by step; a value that is not finite is null."""

    rows: list[dict[str, Any]]
    after_step: int | None = Field(
        None, description="Give it back for the rows since; null before the first row."
    )


class Artifact(_Wire):
    """A file of a run."""

    path: str = Field(description="Path below the run's directory.")
    size: int = Field(description="Bytes.")
    modified: float = Field(description="Time of its last change, seconds since the epoch.")


class ArtifactList(_Wire):
    """The files of a run, by path."""

    artifacts: list[Artifact]


class WorkerList(_Wire):
    """The workers that are there, by pool and name."""

    workers: list[Worker]


class PoolList(_Wire):
    """The pools that have workers or ever had a job, by name."""

    pools: list[Pool]


class Health(_Wire):
    """What was looked at, and `ok` for each."""

    status: str = "ok"
    checks: dict[str, str] = Field(default_factory=dict)


class FieldError(_Wire):
    """Why one value was refused."""

    field: str = Field(description="Path of the field, such as `train.model.d_model`.")
    given: str = Field(description="What was given there, shortened.")
    allowed: str = Field(description="What is allowed there.")


class Problem(_Wire):
    """An error, as RFC 9457 has it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = Field(None, description="Every field that was refused.")
    state: str | None = Field(None, description="What the job is that forbids the call.")


def _no_null(schema: dict[str, Any]) -> None:
    """A parameter is left out or has a value: a URL cannot say null."""
    for name, field in schema.get("properties", {}).items():
        if field.get("default", ...) is None:
            (value,) = (part for part in field["anyOf"] if part != {"type": "null"})
            others = {k: v for k, v in field.items() if k not in {"anyOf", "default"}}
            schema["properties"][name] = {**value, **others}


class Query(BaseModel):
    """Query parameters; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_no_null)


class JobQuery(Query):
    """Which jobs to list; a page may hold fewer than `limit` before the last one."""

    state: State | None = Field(None, description="Only jobs in this state.")
    label: list[Annotated[str, Field(pattern=r"^[^:]+:")]] = Field(
        default_factory=list, description="Only jobs with this label, `key:value`; repeatable."
    )
    pool: str | None = Field(None, description="Only jobs of this pool.")
    name: str | None = Field(None, description="Only jobs of this name.")
    limit: int = Field(50, ge=1, le=200, description="Most jobs in one page.")
    cursor: str | None = Field(
        None, pattern=r"^[1-9][0-9]{0,14}$", description="From the page before."
    )


class DeleteQuery(Query):
    """What goes with the job."""

    files: bool = Field(False, description="Whether the run's files are deleted too.")


class EventQuery(Query):
    """Which events to read."""

    after: str | None = Field(
        None, pattern=r"^[0-9]{1,19}-[0-9]{1,19}$", description="From the page before."
    )
    limit: int = Field(200, ge=1, le=1000, description="Most events in one page.")


class LogQuery(Query):
    """Which part of the log to read."""

    offset: int = Field(0, ge=0, lt=2**63, description="First byte.")
    limit: int = Field(1_048_576, ge=1, le=16_777_216, description="Most bytes in one answer.")


class MetricsQuery(Query):
    """Which rows to read."""

    after_step: int = Field(-1, ge=-1, lt=2**63, description="Only rows of later steps.")
    limit: int = Field(1000, ge=1, le=10_000, description="Most rows in one page.")
