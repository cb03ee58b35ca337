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


class Gpu(_Entry):
    """A GPU of a worker, as its worker last read it; null: it cannot report that."""

    name: str = Field(description="Its model.")
    used_bytes: int | None = Field(None, description="Memory in use, bytes.")
    total_bytes: int | None = Field(None, description="Its memory, bytes.")
    busy_percent: float | None = Field(
        None, description="Share of the time in which some kernel ran, 0 to 100."
    )
    celsius: float | None = Field(None, description="Temperature, degrees Celsius.")
    watts: float | None = Field(None, description="Power, watts.")
    fault: str = Field("", description="Why it must not run a job; empty if it may.")


class Worker(_Entry):
    """A worker process, as it is registered."""

    name: str = Field(description="Name of one process; a restarted worker has another name.")
    pool: str = Field(description="Pool whose jobs the worker takes.")
    host: str = Field(description="Name of its machine.")
    gpus: list[str] = Field(description="Names of its GPUs; empty on the CPU.")
    gpu_states: list[Gpu] = Field(
        default_factory=list,
        description="The same GPUs with what they do, a quarter of a minute old at most; empty "
        "where the worker cannot read them (NVML).",
    )
    state: WorkerState = Field(description="What the worker does.")
    job: str | None = Field(None, description="Id of the job that it runs.")
    reserved_for: str | None = Field(
        None, description="Id of the job that it runs next, for which another makes room."
    )
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
    held: int = Field(
        0, description="Those of the queued jobs that the limits of their owners hold."
    )
    wanted: int = Field(
        description="queued - held + running: the number of workers that would have work."
    )
    wait_seconds: float | None = Field(
        None,
        description="Estimated time until a job starts that is submitted now with priority 5, "
        "seconds; null if it cannot be known.",
    )
