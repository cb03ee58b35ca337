"""Runs what may hang in threads, so that it ends within a second once nobody wants it.

A read from a disk or a network that is gone cannot be ended from outside. Its thread is left
behind: what it still does must do no harm then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_WATCH_SECONDS = 0.1
# How long to wait for threads that are to end; longer where nobody waits.
_LEAVE_SECONDS, _FAIL_SECONDS = 0.5, 10.0


def in_threads(
    work: Callable[[], None], count: int, ended: threading.Event, watch: Callable[[], None]
) -> None:
    """Runs `work` in `count` threads until all return; raises the first error of any.

    `watch` is called ten times a second, and ends them by raising. `ended` is set when they are to
    end, for `work` to look at.
    """
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
            ended.set()

    threads = [threading.Thread(target=guarded, name="input", daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    patience = _FAIL_SECONDS
    try:
        while not ended.is_set() and (alive := [t for t in threads if t.is_alive()]):
            alive[0].join(_WATCH_SECONDS)
            watch()
    except BaseException:
        patience = _LEAVE_SECONDS
        raise
    finally:
        ended.set()
        end = time.monotonic() + patience
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
    if errors:
        raise errors[0]
