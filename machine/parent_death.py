"""Processes that end when the one that started them does, however it ends (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(sent: signal.Signals) -> None:
    """Asks the kernel to send this process `sent` when its parent ends.

    The kernel means the *thread* that started it. Raises `OSError`.
    """
    _prctl(_PR_SET_PDEATHSIG, sent)


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose own parent ends; raises `OSError`."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
