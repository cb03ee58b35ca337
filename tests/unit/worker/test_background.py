"""What goes on beside a training."""

from __future__ import annotations

import os
import threading

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from jobs.errors import ForgottenError
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


def test_a_redis_that_was_reset_is_named_once_although_it_was_away_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only a person can bring the records back, and an outage is logged but once."""
    away, forgotten = RedisConnectionError("refused"), ForgottenError("job-23456789")
    answers: list[Exception | None] = [away, away, forgotten, forgotten, away, forgotten, None]

    def action() -> None:
        if (error := answers.pop(0)) is not None:
            raise error

    background = Background("Redis", action, seconds=60.0, on_overtaken=threading.Event())
    with caplog.at_level("INFO"):
        while answers:
            background.call()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert "refused" in lines[0]
    assert "run `spectrain reindex`" in lines[1]
    assert "available again" in lines[2]
