"""Stop requests: SIGTERM sets a flag that the training loop reads at each step boundary.

    if monitoring.preemption.stop_requested():
        checkpoint_mgr.save_checkpoint(step, model, optimizer, loss_history, config)
        sys.exit(143)

The first SIGTERM sets the flag. Those of the next ten seconds are the same request: a machine that
shuts down, systemd and Slurm signal every process, and so does each supervisor above this process.
A later one ends the process at once. Processes that are forked from this one, such as those of a
DataLoader, end at the first.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

# Signals that come within this time of the first are one request. Those of a supervisor come within
# a second, later on a busy machine; a person who is tired of waiting has waited longer.
TOGETHER_SECONDS = 10.0

_installed = False
_requested_at: float | None = None  # time.monotonic
_before: Callable[[int, FrameType | None], object] | int | None = None  # what SIGTERM did


def install() -> None:
    """Install the handler: SIGTERM requests a stop and no longer ends the process.

    Raises ValueError outside the main thread, the only one to which Python delivers signals.
    """
    global _installed, _before  # noqa: PLW0603
    if threading.current_thread() is not threading.main_thread():
        raise ValueError(
            "monitoring.preemption.install() must be called in the main thread: "
            "Python can set signal handlers only there"
        )
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    if before is not _on_sigterm:
        _before = before
    _installed = True


def stop_requested() -> bool:
    """Return whether SIGTERM was received.

    The first call in the main thread installs the handler.
    """
    if not _installed and threading.current_thread() is threading.main_thread():
        install()
    return _requested_at is not None


def was_requested() -> bool:
    """Return whether an installed handler has received SIGTERM; never installs it."""
    return _requested_at is not None


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    global _requested_at  # noqa: PLW0603
    now = time.monotonic()
    if _requested_at is None:
        _requested_at = now
    elif now - _requested_at > TOGETHER_SECONDS:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def _forget() -> None:
    """Restore the former handler in a forked child, which `multiprocessing` ends by SIGTERM."""
    global _installed, _requested_at
    if _installed and signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if _before is None else _before)
    _installed, _requested_at = False, None


os.register_at_fork(after_in_child=_forget)
