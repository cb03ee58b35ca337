"""The curves of a run on the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from api.schemas.base import JOB_ID, Query, Wire
from jobs.model.record import Real


class Series(Wire):
    """A metric in buckets of consecutive rows, in the order of the file, as columns."""

    x: list[int | float] = Field(description="Place of each bucket: the largest `x` of its rows.")
    min: list[Real] = Field(
        description="Smallest finite value of each bucket; `last` if it has none."
    )
    max: list[Real] = Field(
        description="Largest finite value of each bucket; `last` if it has none."
    )
    last: list[Real] = Field(
        description="Last value of each bucket; the text `NaN`, `Infinity` or `-Infinity` if so."
    )
    not_finite: list[int] = Field(
        description="Number of values of each bucket that are not finite; empty if all are."
    )


class SeriesPage(Wire):
    """The curves of a run."""

    series: dict[str, Series] = Field(description="The metrics that were asked for, by name.")
    superseded: dict[str, Series] | None = Field(
        description="The same metrics in the rows that attempts logged after the checkpoint from "
        "which a later attempt resumed; null unless asked for."
    )
    names: dict[str, int] = Field(
        description="All metrics of the run, each with the number of rows that have it; the first "
        "2,000, and no name of more than 200 characters."
    )
    rows: int = Field(description="Number of rows.")
    axes: list[Literal["step", "time", "tokens"]] = Field(
        description="Values of `x` for which this run has places."
    )
    x_range: tuple[int | float, int | float] | None = Field(
        description="Smallest and largest `x` of all rows; null if they have none."
    )
    cursor: str = Field(description="`cursor` of the next request, for the rows that follow.")
    restarted: bool = Field(
        description="Whether a `cursor` was given and these are the whole curves all the same: its "
        "rows are gone, or very many have followed. Drop what you have."
    )


class Result(Wire):
    """What a run has reached in a metric."""

    last: Real = Field(description="Last value; the text `NaN`, `Infinity` or `-Infinity` if so.")
    min: float | None = Field(description="Smallest finite value; null if it has none.")
    max: float | None = Field(description="Largest finite value; null if it has none.")
    best: float | None = Field(
        description="The smallest value of what is better the smaller it is, by its name (a loss, "
        "an error, perplexity), the largest of what is better the larger (accuracy, throughput); "
        "null for any other metric."
    )


class CodeComparison(Wire):
    """Where the code of jobs differs, a value for each job; null for what is the same in all."""

    workspace: list[str | None] | None = Field(
        description="SHA-256 of the archives that the jobs brought."
    )
    commit: list[str | None] | None = Field(
        description="Commits that the code comes from, by `git.json` of the runs."
    )
    patch: list[str | None] | None = Field(
        description="SHA-256 of what had changed since the commit, `git.patch` of the runs."
    )


class Comparison(Wire):
    """What differs between jobs: each list has a value for each job, null where it has none."""

    jobs: list[str] = Field(description="Ids of the jobs, in the order in which they were given.")
    specification: dict[str, list[Any]] = Field(
        description="By key of the specification that differs: `train.optimizer.lr`."
    )
    code: CodeComparison = Field(description="Differences of the code.")
    environment: dict[str, list[Any]] = Field(
        description="By key of `software` and `hardware` in `config.json` that differs, of the "
        "runs that have such a file: `software.packages.numpy`."
    )
    results: dict[str, list[Result | None]] = Field(description="By metric.")
    curves: dict[str, dict[str, int | None]] = Field(
        description="By job but the first: for each metric that both have, the first step at which "
        "it differs from the first job; null if they agree at all steps that both have. Times and "
        "speeds are left out."
    )


class CompareQuery(Query):
    """Which jobs to compare."""

    job: list[Annotated[str, Field(pattern=rf"^{JOB_ID}$")]] = Field(
        min_length=2, max_length=20, description="Id of a job; repeat it for each of them."
    )


class SeriesQuery(Query):
    """Which curves to read."""

    keys: list[Annotated[str, Field(max_length=200)]] = Field(
        default_factory=list,
        max_length=80,
        description="A metric; repeat it for several. Without any, the answer has `names` only.",
    )
    source: Literal["metrics", "system"] = Field(
        "metrics",
        description="`metrics`: what the program logs. `system`: what the run uses of its machine, "
        "`logs/system.csv`, on the axes of the metrics; there a step may come several times, once "
        "for each attempt that made it.",
    )
    x: Literal["step", "time", "tokens"] = Field(
        "step",
        description="What the rows are placed by. `time`: seconds since the first row, by their "
        "`timestamp`. `tokens`: tokens seen, as the program logs them (`tokens_seen`, "
        "`num_input_tokens_seen`, `consumed_tokens`, `total_tokens` or `tokens`), or as the "
        "built-in workload has them by step.",
    )
    start: float | None = Field(
        None,
        alias="from",
        allow_inf_nan=False,
        description="Only rows with an `x` from here on. A bucket at the edge may have a few more.",
    )
    end: float | None = Field(
        None, alias="to", allow_inf_nan=False, description="Only rows with an `x` up to here."
    )
    points: int = Field(2000, ge=1, le=5000, description="Largest number of buckets of a metric.")
    cursor: str | None = Field(
        None,
        pattern=r"^[0-9]{1,18}-[0-9a-f]{8}$",
        description="`cursor` of the previous answer: only rows that have followed.",
    )
    superseded: bool = Field(
        False,
        description="Whether to answer `superseded` too, always whole.",
    )
