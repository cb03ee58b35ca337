"""The settings of a run: the `train` section of a job, and when to save.

The models and their defaults are in `workload.settings`, from which the service takes them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError

from spectral_gpt.errors import ConfigError
from workload.refusals import refusals
from workload.settings import (
    CheckpointConfig,
    DatasetConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainSpec,
)

__all__ = [
    "CheckpointConfig",
    "DatasetConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "TrainConfig",
]


class TrainConfig(TrainSpec):
    """One training run."""

    checkpoint: CheckpointConfig = Field(
        CheckpointConfig(), description="When to save, and how many checkpoints to keep."
    )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The config that a JSON object describes, defaults for what is missing.

        Raises ConfigError for unknown keys, wrong types and impossible values. Its message names
        the path of each field.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError("\n  ".join(map(str, refusals(cls, error)))) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them; `from_dict` takes them back."""
        return self.model_dump(mode="json")

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step trains on."""
        return self.batch_size * self.gradient_accumulation * self.model.block_size
