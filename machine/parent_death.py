"""Makes processes end together with their parent, however that ends (Linux)."""

from __future__ import annotations

import signal

from machine.prctl import prctl

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(sent: signal.Signals) -> None:
    """Makes the kernel send this process the signal `sent` when its parent ends.

    For the kernel, the parent is the *thread* that started the process. Raises `OSError`.
    """
    prctl(_PR_SET_PDEATHSIG, sent)


def adopt_orphans() -> None:
    """Makes this process the parent of all orphaned descendants; raises `OSError`."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
