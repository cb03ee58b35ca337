"""Copies of weights that go on beside the training until a step is about to change the weights.

The loop is not held by them: between two steps of an optimizer the weights and the moments that
it keeps are only read. So a copy may take as long as a forward and a backward pass, and whatever
is left of it is waited for before the next step of any torch optimizer.

What else changes a weight meanwhile voids the copy. Changes in place are counted by autograd; of
those through `.data`, as of an average that is swapped in for evaluation, some numbers of each
tensor tell, taken before the copy begins.
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
    """Something other than an optimizer's step changed a weight that was being copied."""


class Overlap(ABC):
    """One copy at a time, of tensors that only an optimizer's step changes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: list[tuple[Tensor, int]] = []  # as autograd counts changes in place
        self._changed = False
        self._samples: Samples | None = None
        self._watched: Samples | None = None  # those of a copy that nobody waited for yet
        # The hook must not keep alive what nobody else knows any more.
        known = weakref.ref(self)
        hook = register_optimizer_step_pre_hook(lambda *_: _before_step(known))
        self._unhook = weakref.finalize(self, hook.remove)

    def wait(self) -> None:
        """Return when the copy is complete. Raises WeightsChanged when it is void."""
        self._finish()
        self._compare()
        watched, self._watched = self._watched, None
        changed, self._changed = self._changed, False
        if changed or not (watched is None or watched.agree(self._kept())):
            raise WeightsChanged

    def close(self) -> None:
        """Finish the copy and stop watching the optimizers."""
        self._finish()
        self._unhook()

    def before_step(self) -> None:
        """Let the step that comes now change nothing that is still to be copied."""
        if self._versions:
            self._hold()
            self._compare()

    def _watch(self, pairs: Sequence[Pair]) -> None:
        """Note what the sources are now, before their copy begins."""
        self._versions = [(source, source._version) for _, source in pairs]
        self._watched = None
        if pairs:
            if self._samples is None or not self._samples.are_of(pairs):
                self._samples = Samples(pairs)
            self._watched = self._samples
            self._watched.take()

    @abstractmethod
    def _finish(self) -> None:
        """Return when the copy is complete."""

    @abstractmethod
    def _hold(self) -> None:
        """Hold the step until the copy is complete."""

    @abstractmethod
    def _kept(self) -> Tensor:
        """The samples that were taken, on the CPU, once the copy is complete."""

    def _compare(self) -> None:
        """See whether the sources are still what they were, for the last time."""
        with self._lock:  # the step, and the thread that writes, whichever comes first
            if any(source._version != version for source, version in self._versions):
                self._changed = True
            self._versions = []


def can_overlap(pair: Pair) -> bool:
    """Whether the bytes of the source, copied to the target, are all that there is to it."""
    target, source = pair
    return source.stride() == target.stride() and not (source.is_conj() or source.is_neg())


def _before_step(known: weakref.ref[Overlap]) -> None:
    if (overlap := known()) is not None:
        overlap.before_step()
