"""Makes processes end together with their parent, however that ends (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(sent: signal.Signals) -> None:
    """Makes the kernel send this process the signal `sent` when its parent ends.

    For the kernel, the parent is the *thread* that started the process. Raises `OSError`.
    """
    _prctl(_PR_SET_PDEATHSIG, sent)


def adopt_orphans() -> None:
    """Makes this process the parent of all orphaned descendants; raises `OSError`."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
