"""The `train` section of a job: the settings of the built-in workload, checked at the door.

Names and defaults are those of `spectral_gpt.config`, which must not know this room (a training
script runs without the service); a test holds the two together.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """A frozen value that takes no unknown key and converts no type."""

    # JSON's 1e999 is infinite, and no record could hold it.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSpec(Strict):
    """The language model."""

    type: Literal["wave", "standard"] = "wave"
    d_model: int = Field(256, ge=1, le=65536)
    num_layers: int = Field(4, ge=1, le=1024)
    num_heads: int = Field(8, ge=1, le=1024)
    num_waves: int = Field(16, ge=1, le=4096)
    num_harmonics: int = Field(4, ge=1, le=256)
    block_size: int = Field(256, ge=2, le=1_048_576)
    dropout: float = Field(0.0, ge=0, lt=1)
    tied: bool = True

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.d_model % self.num_heads:
            raise ValueError(
                f"d_model ({self.d_model}) must be a multiple of num_heads ({self.num_heads})"
            )
        return self


class OptimizerSpec(Strict):
    """The optimiser and its learning-rate schedule: warm-up, then cosine to `min_lr_ratio · lr`."""

    name: Literal["rgd", "adamw"] = "rgd"
    lr: float = Field(1e-3, gt=0, le=100)
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = Field((0.9, 0.95), strict=False)
    grad_clip: float = Field(1.0, ge=0)
    warmup_steps: int = Field(100, ge=0)
    min_lr_ratio: float = Field(0.1, ge=0, le=1)
    strength: float = Field(0.3, ge=0, le=1)
    resonance_warmup: int = Field(500, ge=0)


class LossSpec(Strict):
    """Cross-entropy alone (`ce`) or with the coherence term (`qfe`)."""

    name: Literal["qfe", "ce"] = "qfe"
    coherence_weight: float = Field(0.05, ge=0)


class DatasetSpec(Strict):
    """The text and how it is cut into tokens."""

    name: Literal["stdlib", "tinyshakespeare", "path", "url"] = "stdlib"
    location: str | None = Field(None, min_length=1, max_length=4096)
    tokens: Literal["byte", "char", "gpt2"] = "byte"

    @model_validator(mode="after")
    def _location_goes_with_path_and_url(self) -> Self:
        if (self.name in {"path", "url"}) != (self.location is not None):
            raise ValueError(
                "`location` is the path or URL of `name: path` and `name: url`, and of no other"
            )
        return self


class TrainSpec(Strict):
    """One training run of Spectral GPT."""

    model: ModelSpec = ModelSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    loss: LossSpec = LossSpec()
    dataset: DatasetSpec = DatasetSpec()
    steps: int = Field(2000, ge=1, le=1_000_000_000)
    batch_size: int = Field(16, ge=1, le=1_048_576)
    gradient_accumulation: int = Field(1, ge=1, le=65536)
    seed: int = Field(1337, ge=0, lt=2**63)
    log_every: int = Field(10, ge=1)
    eval_every: int = Field(250, ge=1)
    eval_batches: int = Field(8, ge=1)
    plot_every: int = Field(500, ge=1)
    sample_tokens: int = Field(200, ge=0, le=100_000)
    sample_prompt: str = Field("def ", max_length=8192)
