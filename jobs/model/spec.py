"""The specification of a job: one model for the HTTP schema, the command line and the docs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from jobs.model.elsewhere import ELSEWHERE, RESOURCES
from jobs.model.expressions import Expressions
from jobs.model.needs import Environment, InputName, InputUrl, Interpreter
from jobs.model.references import check_command, check_script, check_variables
from jobs.model.scripts import shell_scripts
from jobs.model.words import (
    SUBMITTED,
    as_text,
    check_first_word,
    check_options,
    no_pairs,
    no_single_script,
    no_single_text,
    no_values,
)
from jobs.model.workspace import Workspace
from jobs.notify import Webhook
from workload.settings import CheckpointConfig, Seconds, Strict, TrainSpec

Name = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,63}$")]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
Text = Annotated[str, Field(max_length=8192, pattern=r"^[^\x00]*$")]
# A number in a command or a variable is taken as its text.
Word = Annotated[Text, BeforeValidator(as_text)]
Words = Annotated[list[Word], Field(min_length=1, max_length=1024), BeforeValidator(no_single_text)]
# The kernel starts no program with a longer word.
Script = Annotated[str, Field(min_length=1, max_length=32_767, pattern=r"^[^\x00]*$")]
BASH = ("bash", "-euo", "pipefail", "-c")
StopSignal = Literal["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"]
# Curves are named as in TensorBoard: `loss`, `train/loss`, `val_loss`.
Curve = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*$", max_length=128)]
Finding = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00]*$")]
# A number is its text.
Found = Annotated[Finding, BeforeValidator(as_text)]
ExitCodes = list[Annotated[int, Field(ge=1, le=255)]]
LabelValue = Annotated[str, Field(max_length=128)]

# Names that the worker sets, or removes from the environment of the child.
_RESERVED = re.compile(r"SPECTRAIN_(?!DETERMINISTIC$)|CUDA_VISIBLE_DEVICES$")


class Resources(Strict):
    """Where the job may run."""

    ELSEWHERE: ClassVar[Mapping[str, str]] = RESOURCES

    gpus: int = Field(0, ge=0, le=64, description="GPUs that the job needs, all on one worker.")
    pool: Name = Field("default", description="Pool whose workers run the job.")


class Limits(Strict):
    """When the service ends an attempt by itself."""

    run_seconds: Seconds | None = Field(
        None,
        description="Longest run time of all attempts together, seconds; null: no limit.",
    )
    stall_seconds: Seconds | None = Field(
        1800.0,
        description="Longest time without a step or a `monitoring.heartbeat()`, seconds, from the "
        "first one on; null: no limit.",
    )
    disk_bytes: int | None = Field(
        None, ge=1, le=2**60, description="Largest size of the run directory, bytes; null: none."
    )
    stop_on_nan: bool = Field(True, description="Whether a NaN or infinite loss fails the job.")


class Keep(Strict):
    """What of the run directory is kept."""

    exclude: list[Text] = Field(
        default_factory=list,
        max_length=256,
        description="Shell patterns of names or paths, such as `*.tmp` or `wandb/`, that are not "
        "kept.",
    )


class Retry(Strict):
    """How often the service tries a job again."""

    max_failures: int = Field(
        2, ge=0, le=1000, description="Retries after failures without progress in between."
    )
    max_no_progress: int = Field(
        5,
        ge=1,
        le=1000,
        description="Attempts in a row that may be lost without a new checkpoint; then the job "
        "fails.",
    )
    backoff_seconds: float = Field(
        10.0,
        ge=0,
        le=3600,
        description="Delay before the first retry, seconds; doubles with each failure in a row.",
    )
    out_of_memory: bool = Field(
        False, description="Whether an attempt that ran out of memory is retried."
    )
    on_exit_codes: ExitCodes | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="Exit codes of your program after which it is retried; after any other failure "
        "of the program the job fails. 128 + N: signal N ended it. null: all. A preempted, evicted "
        "or lost attempt is always queued again.",
    )
    not_on_exit_codes: ExitCodes | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="Exit codes of your program after which the job fails without a retry.",
    )

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        on, never = self.on_exit_codes or [], self.not_on_exit_codes or []
        if both := sorted(set(on) & set(never)):
            raise ValueError(f"on_exit_codes and not_on_exit_codes both have {both[0]}")
        if on and self.max_failures == 0:
            raise ValueError("on_exit_codes has no effect with max_failures 0: nothing is retried")
        return self


class JobSpec(Strict):
    """A training job: the built-in workload (`train`) or your own program (`command`, `run`)."""

    ELSEWHERE: ClassVar[Mapping[str, str]] = ELSEWHERE

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["train"], "properties": {"train": {"type": "object"}}},
                {"required": ["command"], "properties": {"command": {"type": "array"}}},
                {"required": ["run"], "properties": {"run": {"type": "string"}}},
            ]
        }
    )

    name: Name = Field(
        description="Name of the job and first part of its id: 1 to 63 of a-z, 0-9, - and _."
    )
    train: TrainSpec | None = Field(
        None, description="The built-in workload, Spectral GPT. Excludes `command` and `run`."
    )
    command: Words | None = Field(
        None,
        description="Your program and its arguments, started without a shell. Excludes `train` and "
        "`run`. A number is its text.",
    )
    run: Script | None = Field(
        None,
        description="A shell script in place of `command`, run by `bash -euo pipefail`.",
    )
    workspace: Workspace | None = Field(
        None,
        description="Files that the job brings: they are its working directory, wherever it runs.",
    )
    environment: Environment | None = Field(
        None,
        description="Python packages of the program, on top of the worker's. A worker builds each "
        "set once.",
    )
    python: Interpreter | None = Field(
        None,
        description="Interpreter on the worker, such as that of a conda environment, that is "
        "`python` for the job; null: the worker's own.",
    )
    setup: Annotated[list[Script], BeforeValidator(no_single_script)] = Field(
        default_factory=list,
        max_length=64,
        description="Shell commands that each attempt runs before the program, in its working "
        "directory.",
    )
    inputs: dict[InputName, InputUrl] = Field(
        default_factory=dict,
        max_length=64,
        description="What is fetched before the program starts, by name: `s3://bucket/prefix`, "
        "`file:///path` or `https://host/file`. It lies, read-only, at `$SPECTRAIN_INPUTS/NAME`.",
    )
    resume_command: Words | None = Field(
        None,
        description="What an attempt that has something to go on from runs in place of `command` "
        "or `run`.",
    )
    resume_args: Words | None = Field(
        None,
        description="What an attempt that has something to go on from appends to `command`, such "
        'as `["--init_from=resume"]`.',
    )
    resume_when: list[Text] = Field(
        default_factory=list,
        max_length=256,
        description="Shell patterns of names or paths, such as `out/ckpt.pt` or `checkpoint-*/`: "
        "an attempt has something to go on from if one of them is there. By default any file of "
        "the program counts.",
    )
    env: Annotated[dict[EnvironmentName, Word], BeforeValidator(no_pairs)] = Field(
        default_factory=dict,
        max_length=256,
        description="Environment variables of the program, by name. A number is its text; a `PATH` "
        "comes before the worker's own.",
    )
    secrets: Annotated[list[EnvironmentName], BeforeValidator(no_values)] = Field(
        default_factory=list,
        max_length=64,
        description="Names of environment variables whose values the workers hold.",
    )
    resources: Resources = Field(Resources(), description="Where the job may run.")
    priority: int = Field(5, ge=0, le=9, description="0 (lowest) to 9 (highest).")
    preemptible: bool = Field(
        True, description="Whether a job of higher priority may evict this one."
    )
    checkpoint: CheckpointConfig = Field(
        CheckpointConfig(),
        description="When the built-in workload saves, and how many checkpoints a run keeps.",
    )
    limits: Limits = Field(Limits(), description="When the service ends an attempt by itself.")
    keep: Keep = Field(Keep(), description="What of the run directory is kept.")
    retry: Retry = Field(Retry(), description="How often the service tries the job again.")
    progress: dict[Curve, Found] = Field(
        default_factory=dict,
        max_length=32,
        description="What the lines of the output say, by name: regular expressions (RE2) with one "
        "group, such as `step: 'step (\\d+)'`. `step` is required, `total` may be a number, and "
        "every other name, such as `loss`, is a curve.",
    )
    restart: Literal["from_checkpoint", "from_scratch"] = Field(
        "from_checkpoint",
        description="`from_checkpoint`: a later attempt that ignores the checkpoint fails. "
        "`from_scratch`: it may start at step 0.",
    )
    stop_signal: StopSignal = Field(
        "SIGTERM",
        description="Signal on which your program saves and exits. `train` saves on SIGTERM.",
    )
    notify: list[Webhook] = Field(
        default_factory=list,
        max_length=16,
        description="Addresses that are told of what happens to the job.",
    )
    labels: dict[Name, LabelValue] = Field(
        default_factory=dict, max_length=64, description="Your own labels, to filter jobs by."
    )

    @field_validator("command", "resume_command")
    @classmethod
    def _words_of_a_command(cls, words: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if words is not None and info.context == SUBMITTED:
            check_first_word(words)
            check_command(words)
        return words

    @field_validator("resume_args")
    @classmethod
    def _words_to_append(cls, words: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if words is not None and info.context == SUBMITTED:
            check_options(words)
            check_command(words)
        return words

    @field_validator("run")
    @classmethod
    def _what_a_shell_expands(cls, script: str | None) -> str | None:
        if script is not None:
            check_script(script)
        return script

    @field_validator("setup")
    @classmethod
    def _what_its_shell_expands(cls, setup: list[str]) -> list[str]:
        for script in setup:
            check_script(script)
        return setup

    @field_validator("env")
    @classmethod
    def _variables_with_values(cls, env: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if info.context == SUBMITTED:
            check_variables(env)
        return env

    @field_validator("progress")
    @classmethod
    def _what_can_be_found(cls, progress: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if progress and info.context == SUBMITTED:
            Expressions.of(progress)
        return progress

    @model_validator(mode="after")
    def _one_kind_of_work(self) -> Self:
        if self.command is not None and self.run is not None:
            raise ValueError("give `command` or `run`, its form as a shell script, not both")
        if (self.train is None) == (self.command is None and self.run is None):
            given = "both" if self.train is not None else "neither"
            raise ValueError(f"give exactly one of `train` and `command`; {given} was given")
        return self

    @model_validator(mode="after")
    def _needs_of_the_program(self) -> Self:
        if self.train is not None:
            for name in ("workspace", "environment", "python", "setup", "inputs"):
                if getattr(self, name):
                    raise ValueError(f"{name} is for a program of your own: `train` brings its own")
        if self.environment is not None and self.workspace is None:
            raise ValueError(
                "environment names a file of the workspace: give `workspace: .` too, or install in "
                "`setup`"
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_resume(self) -> Self:
        if self.resume_command is not None and self.resume_args is not None:
            raise ValueError("give one of resume_command and resume_args, not both")
        if self.train is not None and (self.resume_command or self.resume_args or self.resume_when):
            raise ValueError("resume_… is for a program of your own: `train` resumes by itself")
        if self.resume_args is not None and self.command is None:
            raise ValueError(
                "resume_args is for `command`: a script can ask "
                '`if [ "$SPECTRAIN_RESUMED" = 1 ]`, or give resume_command'
            )
        if self.resume_args is not None and len(self.command or []) - 1 in shell_scripts(
            self.command or []
        ):
            raise ValueError(
                "resume_args would be $0, $1 … of the shell script in `command`, and no arguments "
                "of the program that it starts: give resume_command"
            )
        return self

    @model_validator(mode="after")
    def _a_signal_of_the_program(self) -> Self:
        if self.train is not None and self.stop_signal != "SIGTERM":
            raise ValueError("stop_signal is for `command`: `train` saves on SIGTERM")
        return self

    @model_validator(mode="after")
    def _progress_of_the_program(self) -> Self:
        if self.train is not None and self.progress:
            raise ValueError("progress is for `command` and `run`: `train` counts its steps itself")
        return self

    @model_validator(mode="after")
    def _no_reserved_names(self) -> Self:
        for name in (*self.env, *self.secrets):
            if _RESERVED.match(name):
                raise ValueError(f"env and secrets may not set {name}: the worker sets it")
        return self

    def program(self, *, resumed: bool) -> list[str]:
        """The command of an attempt, with its references; of `train` it is the worker's business.

        `resumed`: it has something to go on from.
        """
        if resumed and self.resume_command is not None:
            return list(self.resume_command)
        if self.run is not None:
            return [*BASH, self.run]
        return [*(self.command or []), *(self.resume_args or [] if resumed else [])]
