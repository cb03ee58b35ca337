"""Copies of weights that go on beside the training until a step is about to change the weights.

The loop is not held by them: between two steps of an optimizer the weights and the moments that
it keeps are only read. So a copy may take as long as a forward and a backward pass, and whatever
is left of it is waited for before the next step of any torch optimizer. What else changes a
weight in place (not by its `.data`, which leaves no trace) is noticed, and the copy is void.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

Pair = tuple[Tensor, Tensor]  # where to, and from where


class WeightsChanged(Exception):  # noqa: N818
    """Something other than an optimizer's step changed a weight that was being copied."""


class Overlap(ABC):
    """One copy at a time, of tensors that only an optimizer's step changes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: list[tuple[Tensor, int]] = []  # as autograd counts changes in place
        self._changed = False
        self._hook = register_optimizer_step_pre_hook(self._before_step)

    def wait(self) -> None:
        """Return when the copy is complete. Raises WeightsChanged when it is void."""
        self._finish()
        self._compare()
        changed, self._changed = self._changed, False
        if changed:
            raise WeightsChanged

    def close(self) -> None:
        """Finish the copy and stop watching the optimizers."""
        self._finish()
        self._hook.remove()

    def _watch(self, sources: Sequence[Tensor]) -> None:
        """Note what the sources are now."""
        self._versions = [(source, source._version) for source in sources]

    @abstractmethod
    def _finish(self) -> None:
        """Return when the copy is complete."""

    @abstractmethod
    def _hold(self) -> None:
        """Let the step that comes now change nothing that is still to be copied."""

    def _before_step(self, *_: object) -> None:
        if self._versions:
            self._hold()
            self._compare()

    def _compare(self) -> None:
        """See whether the sources are still what they were, for the last time."""
        with self._lock:  # the step, and the thread that writes, whichever comes first
            if any(source._version != version for source, version in self._versions):
                self._changed = True
            self._versions = []


def copy_all(pairs: Sequence[Pair], *, non_blocking: bool = False) -> None:
    """Copy each second tensor of a pair to the first, in one call for all."""
    if pairs:
        targets, sources = zip(*pairs, strict=True)
        with torch.no_grad():
            torch._foreach_copy_(targets, sources, non_blocking)
