"""A copy of a training state in memory that is used again for the next one.

Fresh memory costs ten times as much as the copy itself, because the kernel hands it out page
by page. So all copies lie in one block that is kept from save to save: of huge pages where the
kernel has them, and pinned where the state comes from CUDA. A tensor that changes its size lies
beside it.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from monitoring.checkpoints.copies.cpu_copy import CpuCopy, can_copy
from monitoring.checkpoints.copies.cuda_copy import CudaCopy
from monitoring.checkpoints.copies.overlap import Overlap, can_overlap
from monitoring.checkpoints.copies.samples import Pair, copy_all
from monitoring.checkpoints.file import BLOCK
from monitoring.checkpoints.plain import plain

Kind = tuple[torch.dtype, torch.Size]

_NONE: Iterator[Tensor] = iter(())

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
        self._buffers: list[Tensor] = []  # of the last copy
        self._pool: dict[Kind, list[Tensor]] = {}  # the same
        self._loose: set[int] = set()  # which of them, by address, lie outside the block
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
        match = _Matcher(self._pool, self._loose)
        tree = plain(state, match, self._allowed)
        if match.wants_block:
            self.release()
            try:
                self._allocate(match.sources)
            except (OSError, RuntimeError) as error:  # the latter of memory that cannot be pinned
                self.release()
                raise NoMemoryError(str(error)) from error
            match = _Matcher(self._pool, self._loose)
            tree = plain(state, match, self._allowed)
        if match.loose or self._loose or len(match.buffers) != len(self._buffers):
            self._keep(match.buffers, match.loose)
        pairs = list(zip(match.buffers, match.sources, strict=True))
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
        self._keep([], set())

    def _keep(self, buffers: list[Tensor], loose: set[int]) -> None:
        """Use these again for the next copy."""
        self._buffers, self._loose, self._pool = buffers, loose, {}
        for buffer in buffers:
            self._pool.setdefault((buffer.dtype, buffer.shape), []).append(buffer)

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
        places = zip(offsets, sources, strict=True)
        self._keep([_carve(block, offset, source) for offset, source in places], set())


class _Matcher:
    """Hands out the buffers of the last copy again, each to a tensor of its type and shape.

    A tensor that none of them fits, as one that grows from save to save, gets memory of its own
    beside the block: a new block would cost ten times what the copy does.
    """

    def __init__(self, pool: dict[Kind, list[Tensor]], loose: set[int]) -> None:
        self._free = {kind: iter(buffers) for kind, buffers in pool.items()}
        self._were_loose = loose
        self._placed: dict[int, list[Pair]] = {}  # by the address of the source
        self._new = 0  # bytes for which there was no buffer
        self._stays = False
        self.sources: list[Tensor] = []
        self.buffers: list[Tensor] = []
        self.loose: set[int] = set()  # addresses of the buffers that are new

    @property
    def wants_block(self) -> bool:
        """Whether a new block is worth its price.

        It is for the first tensors, for many new ones, and for those that were new the last time
        and came again as they were: they are here to stay.
        """
        return self._stays or 4 * self._new > sum(source.nbytes for source in self.sources)

    def __call__(self, source: Tensor) -> Tensor:
        if source.layout != torch.strided:
            return source.clone().cpu()
        # Tied weights are one tensor under two names, and stay so.
        here = self._placed.setdefault(source.data_ptr(), [])
        for buffer, other in here:
            if _alike(source, other):
                return buffer
        placed = next(self._free.get((source.dtype, source.shape), _NONE), None)
        if placed is None:
            placed = self._own(source)
        elif self._were_loose and placed.data_ptr() in self._were_loose:
            self._stays = True
        self.sources.append(source)
        self.buffers.append(placed)
        here.append((placed, source))
        return placed

    def _own(self, source: Tensor) -> Tensor:
        self._new += source.nbytes
        if not self._free:  # of the first copy, whose tensors get a block
            return source
        try:
            buffer = torch.empty_like(source, device="cpu")
        except RuntimeError as error:
            raise NoMemoryError(str(error)) from error
        if source.numel():
            self.loose.add(buffer.data_ptr())
        return buffer


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors at one address are the same."""
    return (
        one.numel() > 0
        and one.device == other.device
        and one.dtype == other.dtype
        and one.shape == other.shape
        and one.stride() == other.stride()
    )


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
