"""Whether a resumed model goes on where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LossContinuity:
    """The loss before and after a resume; true where they agree."""

    expected: float
    current: float
    tolerance: float

    @property
    def difference(self) -> float:
        """How far the two losses are apart."""
        return abs(self.current - self.expected)

    def __bool__(self) -> bool:
        return self.difference <= self.tolerance  # False for NaN too


def verify_loss_continuity(
    model: nn.Module,
    batch: Any,
    targets: Any,
    criterion: Callable[[Any, Any], torch.Tensor],
    expected_loss: float,
    tolerance: float = 0.1,
) -> LossContinuity:
    """Whether one forward pass of the resumed model gives the loss that is expected.

    The pass runs without dropout and gradients; the model's mode and the random generators
    are afterwards what they were. A discontinuity is logged as a warning.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            current = float(criterion(model(batch), targets))
    finally:
        for module, training in modes.items():
            module.training = training
    result = LossContinuity(float(expected_loss), current, tolerance)
    if not result:
        logger.warning(
            "Loss discontinuity: expected %.4f, got %.4f", result.expected, result.current
        )
    return result
