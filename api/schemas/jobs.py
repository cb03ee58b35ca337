"""Jobs, workers and workspaces on the wire."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from api.schemas.base import Query, Wire
from jobs.model.record import Job
from jobs.model.spec import Name
from jobs.model.states import State
from jobs.model.workers import Pool, Worker
from workload.settings import Strict


class Wait(Wire):
    """Why a queued job waits, and for how long."""

    reason: str = Field(description="Why it waits, as a sentence.")
    seconds: float | None = Field(
        description="Estimated time until it starts, seconds, by the step rates and the time left "
        "of running jobs and of similar ones; null if it cannot be known."
    )


class JobView(Job):
    """A job, with the fields that only the service can compute."""

    model_config = ConfigDict(extra="ignore")

    queue_position: int | None = Field(
        None, description="Jobs of the pool ahead of this one; null unless it waits for a worker."
    )
    wait: Wait | None = Field(None, description="Why the job waits; null unless it is queued.")
    goodput: float | None = Field(
        None,
        description="Share of the time since the first start that was spent on steps that count, "
        "0 to 1; null if it is not known: the program counts no steps, or has done only one.",
    )
    files: str = Field("", description="URL of the run's directory in storage.")


class ForkRequest(Strict):
    """From where a new job begins, and what it does otherwise."""

    step: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Step of a checkpoint of the job; null: the newest one, or the files as they "
        "are now where there is none.",
    )
    set: dict[Annotated[str, Field(max_length=512)], Any] = Field(
        default_factory=dict,
        max_length=256,
        description="Keys of the specification to change: `train.optimizer.lr`.",
    )
    name: Name | None = Field(None, description="Name of the new job; null: that of the job.")


class JobPlan(Wire):
    """What would become of a job that was submitted now."""

    position: int = Field(description="Jobs of its pool that would be ahead of it.")
    seconds: float | None = Field(
        description="Estimated time until it would start, seconds; null if it cannot be known."
    )
    evicts: list[str] = Field(description="Ids of the running jobs that would make room for it.")
    workers: int = Field(description="Workers that are registered in its pool.")
    reason: str = Field(description="Why it would wait, as a sentence.")


class JobPage(Wire):
    """A page of jobs, newest first."""

    jobs: list[Job] = Field(description="The jobs of this page.")
    cursor: str | None = Field(
        None, description="`cursor` of the next page; null on the last page."
    )


class Difference(Wire):
    """A value that differs between two jobs; null also where a job has none."""

    job: Any = Field(None, description="Value of the job.")
    other: Any = Field(None, description="Value of the other job.")


class CodeDifferences(Wire):
    """Where the code of two jobs differs; null for what is the same."""

    workspace: Difference | None = Field(
        None, description="SHA-256 of the archives that the jobs brought."
    )
    commit: Difference | None = Field(
        None, description="Commits that the code comes from, by `git.json` of the runs."
    )
    patch: Difference | None = Field(
        None,
        description="SHA-256 of what had changed since the commit, `git.patch` of the runs.",
    )


class JobDiff(Wire):
    """What differs between two jobs."""

    specification: dict[str, Difference] = Field(
        description="By key of the specification: `train.optimizer.lr`."
    )
    code: CodeDifferences = Field(description="Differences of the code.")
    environment: dict[str, Difference] = Field(
        description="Differences of `software` and `hardware` in `config.json` of the runs, by "
        "key: `software.packages.numpy`. Empty if a run has no such file."
    )
    curves: dict[str, int | None] = Field(
        description="For each metric that both have, the first step at which they differ; null if "
        "they agree at all steps that both have. Times and speeds are left out."
    )


class StoredWorkspace(Wire):
    """What the service has of the archive of a workspace."""

    sha256: str = Field(description="SHA-256 of the archive.")
    size: int = Field(description="Number of bytes that the service has.")
    complete: bool = Field(description="Whether these are all, and verified.")


class WorkerList(Wire):
    """The registered workers, by pool and name."""

    workers: list[Worker] = Field(description="The workers.")


class PoolList(Wire):
    """The pools that have workers or ever had a job, by name."""

    pools: list[Pool] = Field(description="The pools.")


class JobQuery(Query):
    """Which jobs to list; a page may hold fewer than `limit` jobs and not be the last one."""

    state: State | None = Field(None, description="Only jobs in this state.")
    label: list[Annotated[str, Field(pattern=r"^[^:]+:")]] = Field(
        default_factory=list,
        description="Only jobs with this label, `key:value`; repeat it for several labels.",
    )
    pool: str | None = Field(None, description="Only jobs of this pool.")
    name: str | None = Field(None, description="Only jobs with this name.")
    owner: str | None = Field(None, description="Only jobs that this account submitted.")
    forked_from: str | None = Field(None, description="Only forks of the job with this id.")
    limit: int = Field(50, ge=1, le=200, description="Largest number of jobs in the page.")
    cursor: str | None = Field(
        None, pattern=r"^[1-9][0-9]{0,14}$", description="`cursor` of the previous page."
    )


class DeleteQuery(Query):
    """What to delete."""

    files: bool = Field(False, description="Whether to delete the files of the run as well.")
