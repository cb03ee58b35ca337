"""Copies from CUDA to pinned memory beside the training, on a stream of their own.

The loop is not held: it goes on launching kernels while the copy runs. What must not happen is
that a tensor changes under it. Weights and an optimizer's moments change in `optimizer.step()`:
so before the next step of any torch optimizer the GPU (not the CPU) waits for the copy. All
others may change in the forward pass, as the running statistics of BatchNorm do: they come
first, and the GPU waits for them at once.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook


class CudaCopy:
    """Starts copies into a block of memory that it keeps pinned.

    Raises RuntimeError where the memory cannot be pinned.
    """

    def __init__(self, block: Tensor) -> None:
        self._block = block
        status = torch.cuda.cudart().cudaHostRegister(block.data_ptr(), block.nbytes, 0)  # type: ignore[no-untyped-call]
        torch.cuda.check_error(int(status))
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        # Waiting for a blocking event leaves the processor to others.
        self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._sources: list[Tensor] = []
        self._hook = register_optimizer_step_pre_hook(self._before_step)

    def start(self, pairs: list[tuple[Tensor, Tensor]], weights: Collection[int]) -> None:
        """Begin to copy each second tensor into each first one.

        `weights` are the addresses of those that only an optimizer's step changes.
        """
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        early = [pair for pair in pairs if pair[1].data_ptr() not in weights]
        late = [pair for pair in pairs if pair[1].data_ptr() in weights]
        with torch.no_grad(), torch.cuda.stream(self._stream):
            for buffer, source in early:
                buffer.copy_(source, non_blocking=True)
            current.wait_stream(self._stream)
            for buffer, source in late:
                buffer.copy_(source, non_blocking=True)
            self._done.record(self._stream)
        # Memory that is still being copied must not be handed out again.
        self._sources = [source for _, source in pairs]

    def wait(self) -> None:
        """Return when the copies are complete."""
        self._done.synchronize()
        self._sources = []

    def close(self) -> None:
        """Wait, and unpin the memory."""
        self.wait()
        self._hook.remove()
        torch.cuda.check_error(
            int(torch.cuda.cudart().cudaHostUnregister(self._block.data_ptr()))  # type: ignore[no-untyped-call]
        )

    def _before_step(self, *_: object) -> None:
        if self._sources:
            torch.cuda.current_stream().wait_event(self._done)
