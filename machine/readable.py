"""Whether other processes of the same user may look into this one (Linux).

They read its environment, memory and open files in `/proc`, and attach debuggers, unless the kernel
counts it as not dumpable: then only root may. A process keeps that across a fork and loses it at
`exec`, so each program of the service asks for it as it begins.
"""

from __future__ import annotations

import contextlib

from machine.prctl import prctl

_PR_SET_DUMPABLE = 4


def hide() -> None:
    """Keeps other users' processes, and those of this user, from looking into this process."""
    with contextlib.suppress(OSError):  # a system that cannot
        prctl(_PR_SET_DUMPABLE, 0)


def show() -> None:
    """Lets the processes of this user look into this one, as they may into any of theirs."""
    with contextlib.suppress(OSError):
        prctl(_PR_SET_DUMPABLE, 1)
