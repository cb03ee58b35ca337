"""Copies in memory by a thread that releases the interpreter lock."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

from torch import Tensor

from monitoring.checkpoints.copies.overlap import Overlap, can_overlap
from monitoring.checkpoints.copies.samples import Pair

_WORTH_IT = 64 << 10  # bytes: a smaller copy costs less than a thread switch


class CpuCopy(Overlap):
    """A copy by a new thread."""

    def __init__(self) -> None:
        super().__init__()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, pairs: Sequence[Pair]) -> None:
        """Begin to copy the second tensor of each pair, which `can_copy`, to the first."""
        self._watch(pairs)
        self._error = None
        self._thread = None
        thread = threading.Thread(target=self._run, args=(pairs,), name="snapshot")
        try:
            thread.start()
        except RuntimeError:  # no thread can be started
            self._run(pairs)
        else:
            self._thread = thread

    def wait(self) -> None:
        """Wait until the copy is complete. Raises WeightsChanged if it is void."""
        self._finish()
        if self._error is not None:
            raise self._error
        super().wait()

    def _run(self, pairs: Sequence[Pair]) -> None:
        try:
            _copy(pairs)
        except BaseException as error:
            self._error = error

    def _finish(self) -> None:
        if self._thread is not None:
            self._thread.join()

    _hold = _finish

    def _kept(self) -> Tensor:
        assert self._samples is not None  # noqa: S101
        return self._samples.kept


def can_copy(pair: Pair) -> bool:
    """Whether the source is in main memory and large enough for a thread."""
    _, source = pair
    return source.nbytes >= _WORTH_IT and source.device.type == "cpu" and can_overlap(pair)


def _copy(pairs: Sequence[Pair]) -> None:
    for target, source in pairs:
        # torch's own copy would start a second pool of threads beside that of the loop.
        ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes)
