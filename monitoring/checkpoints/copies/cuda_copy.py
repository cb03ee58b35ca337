"""Copies from a CUDA device to pinned memory beside the training, on a stream of their own."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from monitoring.checkpoints.copies.overlap import Overlap
from monitoring.checkpoints.copies.samples import Pair, copy_all


class CudaCopy(Overlap):
    """Starts copies into a block of memory that it keeps pinned.

    The GPU waits for them, never the processor, which goes on launching kernels.

    Raises RuntimeError where the memory cannot be pinned.
    """

    def __init__(self, block: Tensor, device: torch.device) -> None:
        super().__init__()
        self.device = device
        status = torch.cuda.cudart().cudaHostRegister(block.data_ptr(), block.nbytes, 0)  # type: ignore[no-untyped-call]
        if int(status) != 0:
            _drain_error(device)
        torch.cuda.check_error(int(status))
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Waiting for a blocking event leaves the processor to others.
        self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        # Also of a manager that is dropped without `close()`: pinned memory is never swapped out.
        self._unpin = weakref.finalize(self, _unpin, block, self._done, os.getpid())
        self._unpin.atexit = False  # the end of the process does it, and CUDA may be gone by then
        self._sources: list[Tensor] = []
        self._pinned: Tensor | None = None  # what the samples were

    def start(self, changing: Sequence[Pair], weights: Sequence[Pair]) -> None:
        """Begin to copy each second tensor of a pair to the first.

        The `changing` ones may be changed by the next forward pass, as the running statistics
        of BatchNorm are: they come first, and the training's next kernels wait for them.
        """
        current = torch.cuda.current_stream(self.device)
        self._watch(weights)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            copy_all(changing, non_blocking=True)
            current.wait_stream(self._stream)
            copy_all(weights, non_blocking=True)
            if self._watched is not None:
                kept = self._watched.kept
                if self._pinned is None or self._pinned.shape != kept.shape:
                    self._pinned = torch.empty_like(kept, device="cpu", pin_memory=True)
                self._pinned.copy_(kept, non_blocking=True)
            self._done.record(self._stream)
        # Memory that is still being copied must not be handed out again.
        self._sources = [source for _, source in (*changing, *weights)]

    def close(self) -> None:
        """Finish the copy, stop watching the optimizers and unpin the memory."""
        super().close()
        self._unpin()

    def _finish(self) -> None:
        self._done.synchronize()
        self._sources = []

    def _kept(self) -> Tensor:
        assert self._pinned is not None  # noqa: S101
        return self._pinned

    def _hold(self) -> None:
        torch.cuda.current_stream(self.device).wait_event(self._done)


def _unpin(block: Tensor, done: torch.cuda.Event, process: int) -> None:
    if process != os.getpid():  # a forked child can use neither CUDA nor what is pinned
        return
    done.synchronize()
    torch.cuda.check_error(
        int(torch.cuda.cudart().cudaHostUnregister(block.data_ptr()))  # type: ignore[no-untyped-call]
    )


def _drain_error(device: torch.device) -> None:
    """Let a kernel of ours report a call of CUDA's runtime that failed.

    The runtime keeps the error of a failed call for whoever asks next, which torch does after
    every kernel that it launches: the training's next one would fail for a call that was ours.
    torch has no call that only asks.
    """
    with contextlib.suppress(RuntimeError):
        torch.ones(1, device=device)
