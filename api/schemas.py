"""The wire models that server and client share, beside the specification of a job."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from jobs.model.record import Event, Job
from jobs.model.states import State
from jobs.model.workers import Pool, Worker

JOB_ID = r"[a-z0-9_-]{1,63}-[2-9b-df-hj-np-tv-xz]{8}"
SHA256 = r"[0-9a-f]{64}"
NEXT_OFFSET = "Spectrain-Next-Offset"
JOB_STATE = "Spectrain-Job-State"
IDEMPOTENCY_KEY = "Idempotency-Key"
INSTANCE = "Spectrain-Instance"


class _Wire(BaseModel):
    """An older client ignores fields of a newer server."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class JobView(Job):
    """A job, with the fields that only the service can compute."""

    model_config = ConfigDict(extra="ignore")

    queue_position: int | None = Field(
        None, description="Jobs of the pool ahead of this one; null unless it waits for a worker."
    )
    goodput: float | None = Field(
        None,
        description="Share of the time since the first start that was spent on steps that count, "
        "0 to 1; null if it is not known: the program counts no steps, or has done only one.",
    )
    files: str = Field("", description="URL of the run's directory in storage.")


class JobPage(_Wire):
    """A page of jobs, newest first."""

    jobs: list[Job] = Field(description="The jobs of this page.")
    cursor: str | None = Field(
        None, description="`cursor` of the next page; null on the last page."
    )


class EventPage(_Wire):
    """A page of a job's events, oldest first."""

    events: list[Event] = Field(description="The events of this page.")
    after: str | None = Field(
        None, description="`after` of the next page; null before the first event."
    )


class MetricsPage(_Wire):
    """A page of metrics, in the order of the file."""

    rows: list[dict[str, Any]] = Field(
        description="Rows of metrics.jsonl: `step`, `timestamp` (seconds since the epoch) and "
        "each metric by name. A number that is not finite is the text `NaN`, `Infinity` or "
        "`-Infinity`."
    )
    cursor: str | None = Field(
        None, description="`cursor` of the next page; null before the first row."
    )
    after_step: int | None = Field(
        None, description="Step of the last row; null before the first row."
    )


class Artifact(_Wire):
    """A file of a run."""

    path: str = Field(description="Path of the file within the run's directory.")
    size: int = Field(description="Size, bytes.")
    modified: float = Field(description="Time of the last change, seconds since the epoch.")


class ArtifactLink(_Wire):
    """A symbolic link that the program of a run made."""

    path: str = Field(description="Path of the link within the run's directory.")
    target: str = Field(description="Where it leads, as the program wrote it.")


class ArtifactList(_Wire):
    """The files and links of a run, by path."""

    artifacts: list[Artifact] = Field(description="The files.")
    links: list[ArtifactLink] = Field(default=[], description="The symbolic links.")


class StoredWorkspace(_Wire):
    """What the service has of the archive of a workspace."""

    sha256: str = Field(description="SHA-256 of the archive.")
    size: int = Field(description="Number of bytes that the service has.")
    complete: bool = Field(description="Whether these are all, and verified.")


class WorkerList(_Wire):
    """The registered workers, by pool and name."""

    workers: list[Worker] = Field(description="The workers.")


class PoolList(_Wire):
    """The pools that have workers or ever had a job, by name."""

    pools: list[Pool] = Field(description="The pools.")


class Health(_Wire):
    """The result of a health check."""

    status: str = Field("ok", description="`ok`.")
    checks: dict[str, str] = Field(
        default_factory=dict, description="`ok` for each part that was checked."
    )


class FieldError(_Wire):
    """Why one value was refused."""

    field: str = Field(description="Path of the field: `train.model.d_model`.")
    given: str = Field(description="The given value as JSON, shortened; `nothing` for none.")
    allowed: str = Field(description="What the field allows, in the words of the validator.")


class Problem(_Wire):
    """An error (RFC 9457)."""

    type: str = Field("about:blank", description="Type of the problem; `about:blank`.")
    title: str = Field(description="Phrase of the HTTP status.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="What went wrong, and what to do, as a sentence.")
    errors: list[FieldError] | None = Field(None, description="Every field that was refused.")
    state: str | None = Field(None, description="State of the job that forbids the call.")


def _no_null(schema: dict[str, Any]) -> None:
    """Removes null from the schema: a query parameter is absent or has a value."""
    for name, field in schema.get("properties", {}).items():
        if field.get("default", ...) is None:
            (value,) = (part for part in field["anyOf"] if part != {"type": "null"})
            others = {k: v for k, v in field.items() if k not in {"anyOf", "default"}}
            schema["properties"][name] = {**value, **others}


class Query(BaseModel):
    """Query parameters; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_no_null)


class JobQuery(Query):
    """Which jobs to list; a page may hold fewer than `limit` jobs and not be the last one."""

    state: State | None = Field(None, description="Only jobs in this state.")
    label: list[Annotated[str, Field(pattern=r"^[^:]+:")]] = Field(
        default_factory=list,
        description="Only jobs with this label, `key:value`; repeat it for several labels.",
    )
    pool: str | None = Field(None, description="Only jobs of this pool.")
    name: str | None = Field(None, description="Only jobs with this name.")
    limit: int = Field(50, ge=1, le=200, description="Largest number of jobs in the page.")
    cursor: str | None = Field(
        None, pattern=r"^[1-9][0-9]{0,14}$", description="`cursor` of the previous page."
    )


class DeleteQuery(Query):
    """What to delete."""

    files: bool = Field(False, description="Whether to delete the files of the run as well.")


class EventQuery(Query):
    """Which events to read."""

    after: str | None = Field(
        None, pattern=r"^[0-9]{1,19}-[0-9]{1,19}$", description="`after` of the previous page."
    )
    limit: int = Field(200, ge=1, le=1000, description="Largest number of events in the page.")


class LogQuery(Query):
    """Which part of the log to read."""

    offset: int = Field(0, ge=0, lt=2**63, description="Offset of the first byte.")
    limit: int = Field(
        1_048_576, ge=1, le=16_777_216, description="Largest number of bytes in the answer."
    )


class MetricsQuery(Query):
    """Which rows to read."""

    cursor: str | None = Field(
        None,
        pattern=r"^[0-9]{1,18}-[0-9]{1,19}$",
        description="`cursor` of the previous page. The answer costs the same at any place.",
    )
    after_step: int = Field(
        -1,
        ge=-1,
        lt=2**63,
        description="Only rows of steps after this one. Without `cursor` the service scans the "
        "file from its beginning.",
    )
    limit: int = Field(1000, ge=1, le=10_000, description="Largest number of rows in the page.")
