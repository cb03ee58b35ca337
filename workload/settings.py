"""The `train` and `checkpoint` sections of a job: the settings of the built-in workload.

The service checks a job against these models when it is submitted (`jobs.model.spec`), the trainer
checks its config file against the same models (`spectral_gpt.config`).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """A frozen value that refuses unknown keys and converts no type."""

    # JSON's 1e999 is infinite, which no record can hold.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# Beyond these a number has no sense, and sums of times and steps lose digits.
MAX_SECONDS = 315_360_000.0  # ten years
MAX_STEPS = 1_000_000_000
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]


# The settings of `train`, or their beginnings, on which the meaning of a checkpoint depends: a run
# that has one cannot go on with others.
FIXED_IN_A_RUN = ("model.", "optimizer.name", "dataset.tokens")


class ModelConfig(Strict):
    """The language model."""

    type: Literal["wave", "standard"] = Field(
        "wave", description="`wave`: attention by wave interference. `standard`: a usual GPT."
    )
    d_model: int = Field(
        256, ge=1, le=65536, description="Width of the residual stream; a multiple of `num_heads`."
    )
    num_layers: int = Field(4, ge=1, le=1024, description="Number of transformer blocks.")
    num_heads: int = Field(8, ge=1, le=1024, description="Number of attention heads per block.")
    num_waves: int = Field(
        16, ge=1, le=4096, description="Waves per token; read by `type: wave` alone."
    )
    num_harmonics: int = Field(
        4, ge=1, le=256, description="Harmonics per wave; read by `type: wave` alone."
    )
    block_size: int = Field(256, ge=2, le=1_048_576, description="Length of the context, tokens.")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Probability with which training zeroes an activation."
    )
    tied: bool = Field(
        True, description="Whether the output layer shares its weights with the token embedding."
    )

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.d_model % self.num_heads:
            raise ValueError(
                f"d_model ({self.d_model}) must be a multiple of num_heads ({self.num_heads})"
            )
        return self


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Strict):
    """The optimizer and its learning-rate schedule: linear warm-up, then cosine decay."""

    name: Literal["rgd", "adamw"] = Field(
        "rgd", description="`rgd`: resonant gradient descent. `adamw`: AdamW of PyTorch."
    )
    lr: float = Field(
        1e-3, gt=0, le=100, description="Peak learning rate, reached when the warm-up ends."
    )
    weight_decay: float = Field(
        0.1, ge=0, le=100, description="Decoupled weight decay; applies to matrices alone."
    )
    betas: tuple[Beta, Beta] = Field(
        (0.9, 0.95),
        strict=False,
        description="Decay rates of the running means of the gradient and of its square.",
    )
    grad_clip: float = Field(
        1.0,
        ge=0,
        le=1e9,
        description="Largest norm of the gradient; longer ones are scaled. 0: no limit.",
    )
    warmup_steps: int = Field(
        100,
        ge=0,
        le=MAX_STEPS,
        description="Steps over which the learning rate rises linearly to `lr`.",
    )
    min_lr_ratio: float = Field(
        0.1, ge=0, le=1, description="Learning rate of the last step, as a share of `lr`."
    )
    strength: float = Field(
        0.3, ge=0, le=1, description="Strength of the resonance filter; read by `name: rgd` alone."
    )
    resonance_warmup: int = Field(
        500,
        ge=0,
        le=MAX_STEPS,
        description="Steps over which the filter reaches `strength`; read by `name: rgd` alone.",
    )


class LossConfig(Strict):
    """The loss: cross-entropy alone or with the coherence term."""

    name: Literal["qfe", "ce"] = Field(
        "qfe",
        description="`ce`: cross-entropy. `qfe`: cross-entropy plus the weighted coherence term.",
    )
    coherence_weight: float = Field(
        0.05, ge=0, le=1e6, description="Weight of the coherence term; read by `name: qfe` alone."
    )


class DatasetConfig(Strict):
    """The text, and how it is split into tokens."""

    name: Literal["stdlib", "tinyshakespeare", "path", "url"] = Field(
        "stdlib",
        description="`stdlib`: the source of Python's standard library, needs no network. "
        "`tinyshakespeare`: downloaded once. `path`, `url`: the text at `location`.",
    )
    location: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="Path on the worker, or URL, of the text; given with `path` and `url` alone.",
    )
    tokens: Literal["byte", "char", "gpt2"] = Field(
        "byte",
        description="Tokens: bytes, the characters of the text, or GPT-2's byte pairs (tiktoken).",
    )

    @model_validator(mode="after")
    def _location_goes_with_path_and_url(self) -> Self:
        if (self.name in {"path", "url"}) != (self.location is not None):
            raise ValueError(
                "`location` is the path or URL of `name: path` and `name: url`, and of no other"
            )
        return self


class CheckpointConfig(Strict):
    """When the built-in workload saves a checkpoint, and how many a run keeps."""

    every_steps: Steps | None = Field(
        500, description="Steps between two checkpoints; null: not by steps."
    )
    every_seconds: Seconds | None = Field(
        300.0, description="Time between two checkpoints, seconds; null: not by time."
    )
    keep_last: int = Field(
        3, ge=1, le=1000, description="Checkpoints that a run keeps; older ones are removed."
    )


class TrainSpec(Strict):
    """One training run of Spectral GPT, the built-in workload."""

    model: ModelConfig = Field(ModelConfig(), description="The language model.")
    optimizer: OptimizerConfig = Field(
        OptimizerConfig(), description="The optimizer and its learning-rate schedule."
    )
    loss: LossConfig = Field(LossConfig(), description="The loss.")
    dataset: DatasetConfig = Field(DatasetConfig(), description="The training text.")
    steps: Steps = Field(2000, description="Optimizer steps of the whole run.")
    batch_size: int = Field(
        16, ge=1, le=1_048_576, description="Sequences of `block_size` tokens per forward pass."
    )
    gradient_accumulation: int = Field(
        1, ge=1, le=65536, description="Forward passes per optimizer step."
    )
    seed: int = Field(
        1337,
        ge=0,
        lt=2**63,
        description="Seed of the weights, batches, dropout and samples.",
    )
    log_every: Steps = Field(10, description="Steps between two rows of metrics.")
    eval_every: Steps = Field(250, description="Steps between two evaluations.")
    eval_batches: int = Field(
        8, ge=1, le=1_000_000, description="Batches of held-out text per evaluation."
    )
    plot_every: int = Field(
        500,
        ge=0,
        le=MAX_STEPS,
        description="Steps between two updates of the plots. 0: no plots, not even at the end.",
    )
    sample_tokens: int = Field(
        200, ge=0, le=100_000, description="Tokens of the text that is sampled at the end. 0: none."
    )
    sample_prompt: str = Field(
        "def ", max_length=8192, description="Text that the sample continues."
    )
