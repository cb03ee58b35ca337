"""What a job looks like: the one model behind the HTTP schema, the command line and the docs."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jobs.model.workload import Strict, TrainSpec

Name = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,63}$")]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
Text = Annotated[str, Field(max_length=8192, pattern=r"^[^\x00]*$")]
LabelValue = Annotated[str, Field(max_length=128)]

# Names that the worker sets or keeps from the child, so that a job cannot.
_RESERVED = re.compile(r"SPECTRAIN_(?!DETERMINISTIC$)|CUDA_VISIBLE_DEVICES$")


class Resources(Strict):
    """Where the job may run."""

    gpus: int = Field(0, ge=0, le=64, description="GPUs that the job cannot do without.")
    pool: Name = Field("default", description="The pool of workers that takes the job.")


class Checkpoint(Strict):
    """When the built-in workload saves, and how many checkpoints a run keeps."""

    every_steps: int | None = Field(500, ge=1)
    every_seconds: float | None = Field(300.0, gt=0)
    keep_last: int = Field(3, ge=1, le=1000)


class Limits(Strict):
    """When the service ends an attempt by itself."""

    run_seconds: float | None = Field(None, gt=0, description="Run time of all attempts together.")
    stall_seconds: float | None = Field(
        1800.0, gt=0, description="Longest time without a new step, once there was one."
    )
    stop_on_nan: bool = Field(True, description="Whether a NaN or infinite loss ends the job.")


class Retry(Strict):
    """How often an attempt that went wrong is tried again."""

    max_failures: int = Field(2, ge=0, le=1000)
    max_no_progress: int = Field(5, ge=1, le=1000)
    backoff_seconds: float = Field(10.0, ge=0, le=3600)
    out_of_memory: bool = Field(
        False, description="Whether running out of memory is tried again like another failure."
    )


class JobSpec(Strict):
    """A training job: the built-in workload (`train`) or your own program (`command`)."""

    name: Name = Field(description="Lower-case letters, digits, - and _; up to 63 of them.")
    train: TrainSpec | None = Field(None, description="The built-in workload, Spectral GPT.")
    command: list[Text] | None = Field(
        None, min_length=1, max_length=1024, description="Program and arguments; no shell."
    )
    env: dict[EnvironmentName, Text] = Field(default_factory=dict, max_length=256)
    secrets: list[EnvironmentName] = Field(
        default_factory=list,
        max_length=64,
        description="Names of values that the workers hold; never the values.",
    )
    resources: Resources = Resources()
    priority: int = Field(5, ge=0, le=9, description="0 lowest, 9 highest.")
    preemptible: bool = True
    checkpoint: Checkpoint = Checkpoint()
    limits: Limits = Limits()
    retry: Retry = Retry()
    restart: Literal["from_checkpoint", "from_scratch"] = Field(
        "from_checkpoint",
        description="Whether a further attempt may begin at step 0 although a checkpoint exists.",
    )
    labels: dict[Name, LabelValue] = Field(default_factory=dict, max_length=64)

    @model_validator(mode="after")
    def _one_kind_of_work(self) -> Self:
        if (self.train is None) == (self.command is None):
            given = "both" if self.train is not None else "neither"
            raise ValueError(f"give exactly one of `train` and `command`; {given} was given")
        return self

    @model_validator(mode="after")
    def _no_reserved_names(self) -> Self:
        for name in (*self.env, *self.secrets):
            if _RESERVED.match(name):
                raise ValueError(f"env and secrets may not set {name}: the worker does")
        return self
