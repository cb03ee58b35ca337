"""The losses of a run as a checkpoint file holds them: one tensor, however many they are.

A pickle of single numbers takes the interpreter from the training for half a second per million,
and a look at each of them for a tenth of that. So only those since the last save are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class LossHistory:
    """Turns the losses of a run into a tensor, at each save those that are new."""

    def __init__(self) -> None:
        self._floats: list[float] = []
        self._packed = np.empty(0)

    def pack(self, losses: Sequence[Any]) -> Tensor | list[Any]:
        """All losses as float64, in a tensor that stays as it is; a list where some are no floats.

        A float comes back from it as it was, in every bit.
        """
        losses = losses if type(losses) is list else list(losses)
        try:
            same = losses[: len(self._floats)] == self._floats
        except (RuntimeError, ValueError):  # tensors and arrays of several numbers
            same = False
        if not same:
            self._forget()
        new = losses[len(self._floats) :]
        if not {float}.issuperset(map(type, new)):
            return list(losses)
        self._floats += new
        self._packed = np.concatenate((self._packed, np.fromiter(new, np.float64, len(new))))
        return torch.from_numpy(self._packed)

    def _forget(self) -> None:
        self._floats = []
        self._packed = np.empty(0)
