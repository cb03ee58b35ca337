"""How a worker reconnects after an outage of Redis."""

from __future__ import annotations

import logging

import pytest
from kombu.connection import Connection
from kombu.message import Message
from kombu.utils import functional

from api.local.redis_server import free_port
from worker.consumer import PromptConsumer, log_outages_briefly


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


def test_a_message_that_cannot_be_acknowledged_is_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Lost:
        no_ack_consumers = None

        def basic_ack(self, tag: str, multiple: bool) -> None:
            raise ConnectionResetError(f"no acknowledgement of {tag}, {multiple}")

    log_outages_briefly()
    request = logging.getLogger("celery.worker.request")
    message = Message(body="", channel=Lost(), delivery_tag="1")
    message.ack_log_error(request, (ConnectionError,))
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert "Couldn't ack '1'" in caplog.text
    assert "Traceback" not in caplog.text
