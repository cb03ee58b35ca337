"""A few numbers of each tensor, by which a change is noticed that left no other trace."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]  # where to, and from where

_COUNT = 16  # of each tensor, evenly spread
_SLOT = 16 * _COUNT  # bytes: room for the widest numbers


class Samples:
    """Taken of the sources of a copy before it begins, compared with the finished copy."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        sources = [source for _, source in pairs]
        self._pointers = _pointers(pairs)
        self.kept = torch.zeros(len(pairs) * _SLOT, dtype=torch.uint8, device=sources[0].device)
        self._found = torch.zeros_like(self.kept, device="cpu")
        self._of_sources = list(zip(_slots(self.kept, sources), map(_spread, sources), strict=True))
        targets = [target for target, _ in pairs]
        self._of_copy = list(zip(_slots(self._found, targets), map(_spread, targets), strict=True))

    def are_of(self, pairs: Sequence[Pair]) -> bool:
        """Whether they can be taken of these pairs too: their memory is the same."""
        return self._pointers == _pointers(pairs)

    def take(self) -> None:
        """Note what the sources are now, in `kept`."""
        copy_all(self._of_sources)

    def agree(self, kept: Tensor) -> bool:
        """Whether the copy is of what was noted; `kept` is on the CPU."""
        copy_all(self._of_copy)
        return torch.equal(self._found, kept)


def copy_all(pairs: Sequence[Pair], *, non_blocking: bool = False) -> None:
    """Copy each second tensor of a pair to the first, in one call for all."""
    if pairs:
        targets, sources = zip(*pairs, strict=True)
        torch._foreach_copy_(targets, sources, non_blocking)


def _pointers(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    return [(target.data_ptr(), source.data_ptr()) for target, source in pairs]


def _slots(block: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Places in a block of bytes for the samples of each tensor."""
    slots = []
    for number, tensor in enumerate(tensors):
        count = min(_COUNT, tensor.numel())
        start = number * _SLOT
        slots.append(block[start : start + count * tensor.itemsize].view(tensor.dtype))
    return slots


def _spread(tensor: Tensor) -> Tensor:
    """A view of some numbers of a tensor that is dense in memory."""
    count = min(_COUNT, tensor.numel())
    return tensor.as_strided((count,), (tensor.numel() // max(1, count),), tensor.storage_offset())
