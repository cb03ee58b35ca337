"""Copies of weights that run while training goes on, until a step is about to change the weights.

Between two optimizer steps the weights and the optimizer's moments are only read. So a copy may
take as long as a forward and a backward pass without holding the loop. A hook before the next step
of any torch optimizer waits for the rest.

Any other change of a weight during the copy makes it void. Autograd counts changes in place.
Changes through `.data`, such as swapping in averaged weights for evaluation, are detected by sample
values of each tensor, which are taken before the copy begins.
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from monitoring.checkpoints.copies.samples import Pair, Samples


class WeightsChanged(Exception):  # noqa: N818
    """Something other than an optimizer step changed a weight during its copy."""


class Overlap(ABC):
    """A copy of tensors that only an optimizer step changes; one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: list[tuple[Tensor, int]] = []  # the version counters of autograd
        self._changed = False
        self._samples: Samples | None = None
        self._watched: Samples | None = None  # those of a copy that has not been waited for
        # The hook must not keep this object alive.
        known = weakref.ref(self)
        hook = register_optimizer_step_pre_hook(lambda *_: _before_step(known))
        self._unhook = weakref.finalize(self, hook.remove)

    def wait(self) -> None:
        """Wait until the copy is complete. Raises WeightsChanged if it is void."""
        self._finish()
        self._compare()
        watched, self._watched = self._watched, None
        changed, self._changed = self._changed, False
        if changed or not (watched is None or watched.agree(self._kept())):
            raise WeightsChanged

    def close(self) -> None:
        """Finish the copy and remove the optimizer hook."""
        self._finish()
        self._unhook()

    def before_step(self) -> None:
        """Wait for what the coming step would change before it is copied."""
        if self._versions:
            self._hold()
            self._compare()

    def _watch(self, pairs: Sequence[Pair]) -> None:
        """Record the state of the sources before their copy begins."""
        self._versions = [(source, source._version) for _, source in pairs]
        self._watched = None
        if pairs:
            if self._samples is None or not self._samples.are_of(pairs):
                self._samples = Samples(pairs)
            self._watched = self._samples
            self._watched.take()

    @abstractmethod
    def _finish(self) -> None:
        """Wait until the copy is complete."""

    @abstractmethod
    def _hold(self) -> None:
        """Hold the step until the copy is complete."""

    @abstractmethod
    def _kept(self) -> Tensor:
        """The samples taken before the copy, on the CPU; valid once the copy is complete."""

    def _compare(self) -> None:
        """Compare the sources with their recorded versions, and stop watching them."""
        with self._lock:  # the step or the writing thread, whichever is first
            if any(source._version != version for source, version in self._versions):
                self._changed = True
            self._versions = []


def can_overlap(pair: Pair) -> bool:
    """Whether a copy of the bytes is a copy of the tensor."""
    target, source = pair
    return source.stride() == target.stride() and not (source.is_conj() or source.is_neg())


def _before_step(known: weakref.ref[Overlap]) -> None:
    if (overlap := known()) is not None:
        overlap.before_step()
