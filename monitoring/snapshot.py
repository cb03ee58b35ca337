"""A copy of a training state in memory that is used again for the next one.

Fresh memory costs ten times as much as the copy itself, because the kernel hands it out page
by page. So all copies lie in one block that is kept from save to save: of huge pages where the
kernel has them, and pinned where the state comes from CUDA.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from monitoring.checksummed_file import BLOCK
from monitoring.cpu_copy import CpuCopy, can_copy
from monitoring.cuda_copy import CudaCopy
from monitoring.overlap import Overlap, can_overlap
from monitoring.plain import plain
from monitoring.samples import Pair, copy_all

_CACHE_LINE = 64  # bytes
_LARGE = 64 << 10  # bytes from which a tensor is worth blocks of its own, to be written directly


class NoMemoryError(Exception):
    """There is no memory for copies of the state."""


class Snapshot:
    """Copies of state trees, one at a time, always into the same memory.

    `overlap` says whether weights may be copied beside the training that follows.
    """

    def __init__(self, allowed: Collection[type] = ()) -> None:
        self.overlap = True
        self._allowed = allowed
        self._buffers: list[Tensor] = []
        self._cpu: CpuCopy | None = None
        self._cuda: CudaCopy | None = None

    def take(self, state: dict[str, Any], weights: Collection[Tensor] = ()) -> dict[str, Any]:
        """A copy of the tree that stays what it is until the next call.

        It is complete when `wait()` returns. What may change in the next forward pass is copied
        first: on the CPU before this returns, on CUDA before that pass. Large `weights`, which
        only an optimizer's step changes, are copied beside the passes until then.

        Raises NoMemoryError where there is none for the copies.
        """
        # The buffers outlive whatever mode the loop is in now.
        with torch.inference_mode(False), torch.no_grad():
            return self._take(state, weights)

    def _take(self, state: dict[str, Any], weights: Collection[Tensor]) -> dict[str, Any]:
        match = _Matcher(self._buffers)
        tree = plain(state, match, self._allowed)
        if match.misfit:
            self.release()
            try:
                self._allocate(match.sources)
            except (OSError, RuntimeError) as error:  # the latter of memory that cannot be pinned
                self.release()
                raise NoMemoryError(str(error)) from error
            match = _Matcher(self._buffers)
            tree = plain(state, match, self._allowed)
        pairs = list(zip(self._buffers, match.sources, strict=True))
        late = {weight.data_ptr() for weight in weights} if self.overlap else set()
        if self._cuda is not None:
            device = self._cuda.device
            pairs, on_device = _divide(pairs, lambda pair: pair[1].device == device)
            self._cuda.start(
                *_divide(on_device, lambda p: p[1].data_ptr() in late and can_overlap(p))
            )
        now, beside = _divide(pairs, lambda pair: pair[1].data_ptr() in late and can_copy(pair))
        copy_all(now)
        if beside:
            self._cpu = self._cpu or CpuCopy()
            self._cpu.start(beside)
        assert isinstance(tree, dict)  # noqa: S101
        return tree

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors of the last copy."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def wait(self) -> None:
        """Return when the copies are complete. Raises WeightsChanged when they are void."""
        for copy in self._copies():
            copy.wait()

    def release(self) -> None:
        """Give the memory back."""
        for copy in self._copies():
            copy.close()
        self._cpu = self._cuda = None
        self._buffers = []

    def _copies(self) -> Iterator[Overlap]:
        yield from filter(None, (self._cpu, self._cuda))

    def _allocate(self, sources: list[Tensor]) -> None:
        """Make a buffer for each source, side by side in one block."""
        offsets, end = [], 0
        for source in sources:
            alignment = BLOCK if source.nbytes >= _LARGE else _CACHE_LINE
            offsets.append(-(-end // alignment) * alignment)
            end = offsets[-1] + source.nbytes
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory has no huge pages
        block = mmap.mmap(-1, max(end, mmap.PAGESIZE), flags=private)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            block.madvise(mmap.MADV_HUGEPAGE)
        if cuda := next((source.device for source in sources if source.is_cuda), None):
            self._cuda = CudaCopy(torch.frombuffer(block, dtype=torch.uint8), cuda)
        self._buffers = [
            _carve(block, offset, source) for offset, source in zip(offsets, sources, strict=True)
        ]


class _Matcher:
    """Hands out the buffers of the last copy in order, as long as the tensors are alike."""

    def __init__(self, buffers: list[Tensor]) -> None:
        self._buffers = buffers
        self._placed: dict[tuple[Any, ...], Tensor] = {}
        self.sources: list[Tensor] = []
        self._unlike = False

    @property
    def misfit(self) -> bool:
        """Whether the tensors are not those that the buffers were made for."""
        return self._unlike or len(self.sources) != len(self._buffers)

    def __call__(self, source: Tensor) -> Tensor:
        if source.layout != torch.strided:
            return source.clone().cpu()
        kind = (source.dtype, source.shape)
        # Tied weights are one tensor under two names, and stay so.
        identity = (source.device, source.data_ptr(), source.stride(), kind)
        if identity in self._placed and source.numel():
            return self._placed[identity]
        index = len(self.sources)
        self.sources.append(source)
        placed = self._buffers[index] if index < len(self._buffers) else source
        self._unlike = self._unlike or (placed.dtype, placed.shape) != kind
        self._placed[identity] = placed
        return placed


def _divide(pairs: Sequence[Pair], holds: Callable[[Pair], bool]) -> tuple[list[Pair], list[Pair]]:
    """The pairs of which this is not true, and those of which it is."""
    divided: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        divided[holds(pair)].append(pair)
    return divided


def _carve(block: mmap.mmap, offset: int, source: Tensor) -> Tensor:
    """A tensor like `source` with a storage of its own inside the block."""
    if source.numel() == 0:
        return torch.empty_like(source, device="cpu")
    raw = torch.frombuffer(block, dtype=torch.uint8, count=source.nbytes, offset=offset)
    strides = torch.empty_like(source, device="meta").stride()
    return raw.view(source.dtype).as_strided(source.shape, strides)
