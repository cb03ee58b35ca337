"""Sample values of tensors, to detect changes that no version counter shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]  # target and source

_COUNT = 16  # of each tensor, evenly spaced
_SLOT = 16 * _COUNT  # bytes: enough for the widest type


class Samples:
    """Samples of the sources of a copy, taken before it begins and compared with the result."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        sources = [source for _, source in pairs]
        self._pointers = _pointers(pairs)
        self.kept = torch.zeros(len(pairs) * _SLOT, dtype=torch.uint8, device=sources[0].device)
        self._found = torch.zeros_like(self.kept, device="cpu")
        self._of_sources = list(zip(_slots(self.kept, sources), map(_spread, sources), strict=True))
        targets = [target for target, _ in pairs]
        self._of_copy = list(zip(_slots(self._found, targets), map(_spread, targets), strict=True))

    def are_of(self, pairs: Sequence[Pair]) -> bool:
        """Whether these pairs have the same memory, so that the samples can be taken again."""
        return self._pointers == _pointers(pairs)

    def take(self) -> None:
        """Sample the sources into `kept`."""
        copy_all(self._of_sources)

    def agree(self, kept: Tensor) -> bool:
        """Whether the copy agrees with the samples; `kept` is on the CPU."""
        copy_all(self._of_copy)
        return torch.equal(self._found, kept)


def copy_all(pairs: Sequence[Pair], *, non_blocking: bool = False) -> None:
    """Copy the second tensor of each pair to the first, all in one call."""
    if pairs:
        targets, sources = zip(*pairs, strict=True)
        torch._foreach_copy_(targets, sources, non_blocking)


def _pointers(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    return [(target.data_ptr(), source.data_ptr()) for target, source in pairs]


def _slots(block: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Slices of a block of bytes for the samples of each tensor."""
    slots = []
    for number, tensor in enumerate(tensors):
        count = min(_COUNT, tensor.numel())
        start = number * _SLOT
        slots.append(block[start : start + count * tensor.itemsize].view(tensor.dtype))
    return slots


def _spread(tensor: Tensor) -> Tensor:
    """A view of evenly spaced values of a tensor that is dense in memory."""
    count = min(_COUNT, tensor.numel())
    return tensor.as_strided((count,), (tensor.numel() // max(1, count),), tensor.storage_offset())
