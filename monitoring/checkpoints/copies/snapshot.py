"""Copies of a training state, in memory that is reused for every save.

New memory costs ten times as much as the copy itself, because the kernel provides it page by page.
So all copies are in one block that is kept from save to save: of huge pages if the kernel has them,
and pinned if the state comes from CUDA. A tensor whose size changes gets memory of its own.
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
_LARGE = 64 << 10  # bytes; larger tensors are aligned to blocks, for direct I/O


class NoMemoryError(Exception):
    """There is not enough memory for copies of the state."""


class Snapshot:
    """Copies state trees, one at a time, always into the same memory.

    `overlap` says whether weights may be copied while training goes on.
    """

    def __init__(self, allowed: Collection[type] = ()) -> None:
        self.overlap = True
        self._allowed = allowed
        self._buffers: list[Tensor] = []  # of the last copy
        self._pool: dict[Kind, list[Tensor]] = {}  # the same
        self._loose: set[int] = set()  # addresses of those outside the block
        self._cpu: CpuCopy | None = None
        self._cuda: CudaCopy | None = None

    def take(self, state: dict[str, Any], weights: Collection[Tensor] = ()) -> dict[str, Any]:
        """Return a copy of the tree, which is valid until the next call.

        It is complete when `wait()` returns. Tensors that the next forward pass may change are
        copied first: on the CPU before this returns, on CUDA before that pass. Large `weights`,
        which only an optimizer step changes, are copied while training goes on until that step.

        Raises NoMemoryError.
        """
        # The buffers are used after the loop has left its inference or no-grad mode.
        with torch.inference_mode(False), torch.no_grad():
            return self._take(state, weights)

    def _take(self, state: dict[str, Any], weights: Collection[Tensor]) -> dict[str, Any]:
        match = _Matcher(self._pool, self._loose)
        tree = plain(state, match, self._allowed)
        if match.wants_block:
            self.release()
            try:
                self._allocate(match.sources)
            except (OSError, RuntimeError) as error:  # RuntimeError: the memory cannot be pinned
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
        """Bytes of all tensors in the last copy."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def wait(self) -> None:
        """Wait until the copies are complete. Raises WeightsChanged if they are void."""
        for copy in self._copies():
            copy.wait()

    def release(self) -> None:
        """Free the memory."""
        for copy in self._copies():
            copy.close()
        self._cpu = self._cuda = None
        self._keep([], set())

    def _keep(self, buffers: list[Tensor], loose: set[int]) -> None:
        """Keep these buffers for the next copy."""
        self._buffers, self._loose, self._pool = buffers, loose, {}
        for buffer in buffers:
            self._pool.setdefault((buffer.dtype, buffer.shape), []).append(buffer)

    def _copies(self) -> Iterator[Overlap]:
        yield from filter(None, (self._cpu, self._cuda))

    def _allocate(self, sources: list[Tensor]) -> None:
        """Allocate one block with a buffer for each source."""
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
    """Assigns the buffers of the last copy to tensors of the same type and shape.

    A tensor without such a buffer, such as one that grows, gets memory of its own outside the
    block: a new block would cost ten times as much as the copy.
    """

    def __init__(self, pool: dict[Kind, list[Tensor]], loose: set[int]) -> None:
        self._free = {kind: iter(buffers) for kind, buffers in pool.items()}
        self._were_loose = loose
        self._placed: dict[int, list[Pair]] = {}  # by the address of the source
        self._new = 0  # bytes without a buffer
        self._stays = False
        self.sources: list[Tensor] = []
        self.buffers: list[Tensor] = []
        self.loose: set[int] = set()  # addresses of new buffers

    @property
    def wants_block(self) -> bool:
        """Whether a new block is worth its cost.

        It is for the first copy, for many new tensors, and for tensors that were new in the last
        copy and have the same size again.
        """
        return self._stays or 4 * self._new > sum(source.nbytes for source in self.sources)

    def __call__(self, source: Tensor) -> Tensor:
        if source.layout != torch.strided:
            return source.clone().cpu()
        # Tied weights are one tensor under two names, in the copy too.
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
        if not self._free:  # the first copy: a block is allocated
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
    """The pairs for which `holds` is false, and those for which it is true."""
    divided: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        divided[holds(pair)].append(pair)
    return divided


def _carve(block: mmap.mmap, offset: int, source: Tensor) -> Tensor:
    """A tensor like `source`, with its own storage inside the block."""
    if source.numel() == 0:
        return torch.empty_like(source, device="cpu")
    raw = torch.frombuffer(block, dtype=torch.uint8, count=source.nbytes, offset=offset)
    strides = torch.empty_like(source, device="meta").stride()
    return raw.view(source.dtype).as_strided(source.shape, strides)
