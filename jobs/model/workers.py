"""Workers and pools, as the registry (`jobs.store.registry`) reports them."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class WorkerState(StrEnum):
    """State of a worker; only an idle or a busy one takes a further job."""

    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    UNHEALTHY = "unhealthy"

    @property
    def takes_jobs(self) -> bool:
        """Whether the worker claims another job, now or after its current one."""
        return self in {WorkerState.IDLE, WorkerState.BUSY}


class _Entry(BaseModel):
    """An older client ignores fields of a newer service."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Worker(_Entry):
    """A worker process, as it is registered."""

    name: str = Field(description="Name of one process; a restarted worker has another name.")
    pool: str = Field(description="Pool whose jobs the worker takes.")
    host: str = Field(description="Name of its machine.")
    gpus: list[str] = Field(description="Names of its GPUs; empty on the CPU.")
    state: WorkerState = Field(description="What the worker does.")
    job: str | None = Field(None, description="Id of the job that it runs.")
    reason: str = Field("", description="Why the worker takes no further job.")
    since: float = Field(description="Time when it entered this state, seconds since the epoch.")
    started_at: float = Field(description="Time of its registration, seconds since the epoch.")


class Pool(_Entry):
    """How full a pool is."""

    name: str = Field(description="Name of the pool.")
    workers: dict[WorkerState, int] = Field(description="Number of workers by state.")
    queued: int = Field(description="Jobs that wait for a worker.")
    delayed: int = Field(description="Jobs that wait for the end of their backoff.")
    running: int = Field(description="Jobs that run.")
    wanted: int = Field(description="queued + running: the number of workers with work.")
    wait_seconds: float | None = Field(
        None,
        description="Estimated time until a job starts that is submitted now with priority 5, "
        "seconds; null if it cannot be known.",
    )
