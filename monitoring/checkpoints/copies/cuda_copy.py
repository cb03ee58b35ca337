"""Copies from a CUDA device to pinned memory on a separate stream."""

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
    """Starts copies into a pinned block of memory.

    Only the GPU waits for them; the processor goes on launching kernels.

    Raises RuntimeError if the memory cannot be pinned.
    """

    def __init__(self, block: Tensor, device: torch.device) -> None:
        super().__init__()
        self.device = device
        status = torch.cuda.cudart().cudaHostRegister(block.data_ptr(), block.nbytes, 0)  # type: ignore[no-untyped-call]
        if int(status) != 0:
            _drain_error(device)
        torch.cuda.check_error(int(status))
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Waiting for a blocking event does not use the processor.
        self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        # Also for a manager that is dropped without `close()`: pinned memory is never swapped out.
        self._unpin = weakref.finalize(self, _unpin, block, self._done, os.getpid())
        self._unpin.atexit = False  # the process exit does it, and CUDA may be unloaded by then
        self._sources: list[Tensor] = []
        self._pinned: Tensor | None = None  # the samples, in pinned memory

    def start(self, changing: Sequence[Pair], weights: Sequence[Pair]) -> None:
        """Begin to copy the second tensor of each pair to the first.

        The next forward pass may change the `changing` ones, such as the running statistics of
        BatchNorm. They are copied first, and the next kernels of the training wait for them.
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
        # Memory that is still being copied must not be reused.
        self._sources = [source for _, source in (*changing, *weights)]

    def close(self) -> None:
        """Finish the copy, remove the optimizer hook and unpin the memory."""
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
    if process != os.getpid():  # a forked child can use neither CUDA nor pinned memory
        return
    done.synchronize()
    torch.cuda.check_error(
        int(torch.cuda.cudart().cudaHostUnregister(block.data_ptr()))  # type: ignore[no-untyped-call]
    )


def _drain_error(device: torch.device) -> None:
    """Clear the error of a failed call of the CUDA runtime by launching a kernel.

    The runtime keeps the error until it is queried, which torch does after each kernel launch: the
    next kernel of the training would fail. torch has no call that only queries.
    """
    with contextlib.suppress(RuntimeError):
        torch.ones(1, device=device)
