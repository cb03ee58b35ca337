"""Stop requests: SIGTERM sets a flag that the training loop reads at each step boundary.

    if monitoring.preemption.stop_requested():
        checkpoint_mgr.save_checkpoint(step, model, optimizer, loss_history, config)
        sys.exit(143)

The first SIGTERM sets the flag. A second one ends the process at once. Processes that are forked
from this one, such as those of a DataLoader, end at the first.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

_installed = False
_requested = False
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
    return _requested


def was_requested() -> bool:
    """Return whether an installed handler has received SIGTERM; never installs it."""
    return _requested


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    global _requested  # noqa: PLW0603
    _requested = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _forget() -> None:
    """Restore the former handler in a forked child, which `multiprocessing` ends by SIGTERM."""
    global _installed, _requested  # noqa: PLW0603
    if _installed and signal.getsignal(signal.SIGTERM) in (_on_sigterm, signal.SIG_DFL):
        signal.signal(signal.SIGTERM, signal.SIG_DFL if _before is None else _before)
    _installed = _requested = False


os.register_at_fork(after_in_child=_forget)
