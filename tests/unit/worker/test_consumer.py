"""How a worker reconnects after an outage of Redis."""

from __future__ import annotations

import pytest
from kombu.connection import Connection
from kombu.utils import functional

from api.local.redis_server import free_port
from worker.consumer import PromptConsumer


class EnoughError(Exception):
    pass


def test_a_worker_tries_to_reach_redis_every_second_however_long_the_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 60:
            raise EnoughError

    monkeypatch.setattr(functional, "sleep", sleep)
    consumer = PromptConsumer.__new__(PromptConsumer)
    with (
        Connection(f"redis://127.0.0.1:{free_port()}/0") as connection,
        pytest.raises(EnoughError),
    ):
        consumer.ensure_connected(connection)
    assert 0 < max(slept) <= 1
