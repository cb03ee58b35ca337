"""Runs an action in a thread of its own while the attempt is supervised."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def meanwhile(
    action: Callable[[], Result],
    supervise: Callable[[], None],
    *,
    abandon: Callable[[], None],
    wake: threading.Event,
) -> Result:
    """The result of `action`, in a thread; until then calls `supervise` again and again.

    `supervise` waits for `wake`, at most for a while. If it raises, `abandon` makes `action` end.
    Raises what either raises.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(action())
        except BaseException as error:  # it is raised again below
            errors.append(error)
        finally:
            wake.set()

    thread = threading.Thread(target=run, name="preparation", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            supervise()
    except BaseException:
        abandon()
        raise
    finally:
        thread.join()
    if errors:
        raise errors[0]
    return results[0]
