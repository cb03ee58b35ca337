"""Check that a resumed model continues where it stopped."""

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
    """The loss before and after a resume; true if they differ by at most `tolerance`."""

    expected: float
    current: float
    tolerance: float

    @property
    def difference(self) -> float:
        """The absolute difference of the two losses."""
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
    """Run one forward pass of a resumed model and compare its loss with the expected one.

    The pass runs without dropout and gradients. Afterwards the model's mode and the random
    generators are as they were. A difference above `tolerance` is logged as a warning.

    Args:
        model: called as `model(batch)`.
        batch: the inputs.
        targets: what `criterion(model(batch), targets)` takes; it returns a scalar tensor.
        criterion: the loss function.
        expected_loss: usually the last entry of the checkpoint's `loss_history`.
        tolerance: the largest difference that counts as equal.
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
