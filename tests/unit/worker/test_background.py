"""What goes on beside a training."""

from __future__ import annotations

import os
import threading

from worker.attempt.background import Background


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_publication_and_all_its_threads_leave_the_processors_to_the_training() -> None:
    seen: list[int] = []
    called = threading.Event()

    def action() -> None:
        seen.append(niceness())
        helper = threading.Thread(target=lambda: seen.append(niceness()))
        helper.start()
        helper.join()
        called.set()

    before = niceness()
    wanted = min(19, before + 5)
    background = Background(
        "storage", action, seconds=60.0, on_overtaken=threading.Event(), nice=wanted
    )
    background.start()
    background.trigger()
    assert called.wait(60)
    background.stop()
    assert seen == [wanted, wanted]
    assert niceness() == before, "the supervisor itself is as fast as ever"
