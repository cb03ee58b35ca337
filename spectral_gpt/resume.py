"""The progress of a run: what a checkpoint contains beside weights and optimiser."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from spectral_gpt.config import TrainConfig
from spectral_gpt.data import Corpus
from spectral_gpt.errors import ResumeError
from workload.settings import FIXED_IN_A_RUN


@dataclass
class Progress:
    """The progress of a run, `extra` in a checkpoint. Losses are in nats per token.

    `best_step` had the lowest validation loss. `best_saved_step` is the best of those that have
    a checkpoint, saved right after their validation.
    """

    corpus_sha256: str
    threads: int = field(default_factory=torch.get_num_threads)
    seconds: float = 0.0
    val_loss: float = math.nan
    best_val_loss: float = math.inf
    best_step: int | None = None
    best_saved_loss: float = math.inf
    best_saved_step: int | None = None

    def validate(self, step: int, val_loss: float) -> None:
        """Record a validation loss."""
        self.val_loss = val_loss
        if val_loss < self.best_val_loss:
            self.best_val_loss, self.best_step = val_loss, step

    def save(self, step: int) -> bool:
        """Record a checkpoint that was just validated; return whether it is the best so far."""
        if self.val_loss >= self.best_saved_loss or math.isnan(self.val_loss):
            return False
        self.best_saved_loss, self.best_saved_step = self.val_loss, step
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Mapping[str, Any], config: TrainConfig, corpus: Corpus
    ) -> Self:
        """The progress in a checkpoint that this config and corpus can go on from.

        Restores the number of threads too: it decides how sums are split, and so their last
        bits. Raises ResumeError when the model, the optimiser or the text is another.
        """
        changed = list(differences(checkpoint["config"], config.to_dict()))
        if fatal := [line for line in changed if line.startswith(FIXED_IN_A_RUN)]:
            raise ResumeError(
                f"the checkpoint of step {checkpoint['step']} was made with other settings "
                f"({'; '.join(fatal)}): take those, or another run directory"
            )
        progress = cls(**checkpoint["extra"])
        if progress.corpus_sha256 != corpus.sha256:
            raise ResumeError(
                f"the text of dataset {corpus.name!r} is not the one this run was trained on: its "
                f"SHA-256 is {corpus.sha256[:12]}… here (Python {platform.python_version()}) and "
                f"{progress.corpus_sha256[:12]}… in the checkpoint of step {checkpoint['step']}. "
                "Resume where the text is the same (`stdlib` changes with the Python version), "
                "or start a new run"
            )
        torch.set_num_threads(progress.threads)
        return progress


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield `path: old → new` for every setting that differs."""
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, f"{path}{key}.")
        elif a != b:
            yield f"{path}{key}: {a} → {b}"
