"""Celery messages: a message wakes a worker of a pool, and the claim decides which job runs.

A lost, duplicate or late message does no harm. A claim that finds no job drops the message, and
`jobs.reaper.reaper` sends messages again for jobs that wait without one.
"""

from __future__ import annotations

from typing import Any

import redis.exceptions
from celery import Celery
from kombu import pools
from kombu.exceptions import OperationalError

from jobs.errors import STORE_AWAY
from jobs.redis_address import RedisAddress
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.keys import Keys

TASK = "spectrain.run"
_SWEEP_LIMIT = 200


class _Application(Celery):  # type: ignore[misc]  # celery has no types
    """Talks to the Redis of the settings only.

    Celery prefers `CELERY_BROKER_URL` of the environment, which is meant for another application.
    """

    address: str

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        """The connection of a consumer."""
        return super().connection_for_read(url or self.address, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        """The connection of a producer."""
        return super().connection_for_write(url or self.address, **options)


def celery_app(settings: Settings) -> Celery:
    """The Celery application, for senders and for the worker."""
    redis_address = RedisAddress.parse(settings.redis_address)
    app = _Application("spectrain", broker=redis_address.broker_url, set_as_current=False)
    app.address = redis_address.broker_url
    app.conf.update(
        # With late acknowledgement a message is restored, and runs twice, after any reconnect.
        task_acks_late=False,
        # A busy worker must not hold a message that an idle one could take.
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_pool="threads",
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        task_ignore_result=True,
        task_default_queue=queue_name(settings, settings.pool),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Redis refuses commands in a failover or while its disk is full, which passes.
        broker_channel_error_retry=True,
        **redis_address.broker_settings(
            socket_connect_timeout=5,
            socket_timeout=10,
            socket_keepalive=True,
            # Detects a dead connection in about ten seconds.
            health_check_interval=5,
        ),
    )
    return app


def queue_name(settings: Settings, pool: str) -> str:
    """The Redis list that holds a pool's messages."""
    return Keys(settings.redis_prefix).queue(pool)


class Messenger:
    """Sends the messages in the outbox."""

    def __init__(self, settings: Settings, store: JobStore) -> None:
        self._settings = settings
        self._store = store
        self._app = celery_app(settings)

    def announce(self, pool: str, job_id: str) -> None:
        """Sends a message to the pool; the reaper repeats it soon if this call fails.

        A message wakes a worker, whichever job it names: while many wait for one, no further is
        needed. Raises the errors of redis-py, also where kombu has one of its own for a connection.
        """
        queue = queue_name(self._settings, pool)
        with self._store.redis.pipeline(transaction=False) as pipe:
            (seconds, micros), waiting = pipe.time().llen(queue).execute()
        if waiting < _SWEEP_LIMIT:
            try:
                self._send(queue, job_id)
            except OperationalError as error:
                raise redis.exceptions.ConnectionError(str(error)) from error
        self._store.queues.message_sent(job_id, seconds + micros / 1e6)

    def _send(self, queue: str, job_id: str) -> None:
        options = {"args": [job_id], "queue": queue, "ignore_result": True}
        try:
            self._app.send_task(TASK, **options)
        except (OperationalError, *STORE_AWAY):
            raise
        except Exception:
            # In an outage kombu closes a pooled connection, and may meet what is left of it: an
            # AttributeError, for one. A connection of its own has no past.
            with self._app.connection_for_write() as connection:
                self._app.send_task(TASK, **options, connection=connection)

    def close(self) -> None:
        """Closes this process's connections to the broker; Celery shares them between apps."""
        pools.reset()  # type: ignore[no-untyped-call]
        self._app.close()

    def flush(self, now: float) -> int:
        """Sends every message that is due at `now`; returns how many."""
        due = self._store.queues.due_messages(now)
        for pool, job_id in due:
            self.announce(pool, job_id)
        return len(due)

    def sweep(self) -> int:
        """Sends messages for jobs that wait in a pool without any message; returns how many.

        A message wakes a worker, whichever job it names: a few are enough, and the next sweep
        sends more.
        """
        sent = 0
        for pool in self._store.queues.pools():
            if self._store.redis.llen(queue_name(self._settings, pool)) == 0:
                for job_id in self._store.queues.some_waiting(pool, _SWEEP_LIMIT):
                    self.announce(pool, job_id)
                    sent += 1
        return sent
