"""Copies from memory to memory by a thread that leaves the interpreter to the training."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

from torch import Tensor

from monitoring.checkpoints.copies.overlap import Overlap, can_overlap
from monitoring.checkpoints.copies.samples import Pair

_WORTH_IT = 64 << 10  # bytes: a smaller copy costs less than a change of threads


class CpuCopy(Overlap):
    """A copy by a thread of its own, which ends with the copy."""

    def __init__(self) -> None:
        super().__init__()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, pairs: Sequence[Pair]) -> None:
        """Begin to copy each second tensor of a pair, which `can_copy`, to the first."""
        self._watch(pairs)
        self._error = None
        self._thread = None
        thread = threading.Thread(target=self._run, args=(pairs,), name="snapshot")
        try:
            thread.start()
        except RuntimeError:  # there can be no further thread
            self._run(pairs)
        else:
            self._thread = thread

    def wait(self) -> None:
        """Return when the copy is complete. Raises WeightsChanged when it is void."""
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
    """Whether it is in this memory and worth a thread."""
    _, source = pair
    return source.nbytes >= _WORTH_IT and source.device.type == "cpu" and can_overlap(pair)


def _copy(pairs: Sequence[Pair]) -> None:
    for target, source in pairs:
        # By one thread: torch's own copy would start a second team of them beside the loop's.
        ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes)
