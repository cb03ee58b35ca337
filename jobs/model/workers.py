"""Workers and pools, as the register (`jobs.store.registry`) tells of them."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class WorkerState(StrEnum):
    """What a worker does; only one that is idle or busy takes a further job."""

    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    UNHEALTHY = "unhealthy"

    @property
    def takes_jobs(self) -> bool:
        """Whether it will run the pool's next job, now or after the one it runs."""
        return self in {WorkerState.IDLE, WorkerState.BUSY}


class _Entry(BaseModel):
    """A newer service may say more than an older client knows."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Worker(_Entry):
    """A worker process, as the register has it."""

    name: str = Field(description="Of one process: one that is started again has another name.")
    pool: str
    host: str
    gpus: list[str] = Field(description="Names of its GPUs; empty on the CPU.")
    state: WorkerState
    job: str | None = Field(None, description="The job it runs.")
    reason: str = Field("", description="Why it takes no further job.")
    since: float = Field(description="When it began to do what it does, seconds since the epoch.")
    started_at: float = Field(description="When it was first seen, seconds since the epoch.")


class Pool(_Entry):
    """How full a pool is."""

    name: str
    workers: dict[WorkerState, int] = Field(description="Workers by what they do.")
    queued: int = Field(description="Jobs that could run now.")
    delayed: int = Field(description="Jobs that wait for their next try.")
    running: int
    wanted: int = Field(description="queued + running: so many workers would be busy.")
