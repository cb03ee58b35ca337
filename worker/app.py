"""The Celery worker: a message wakes it, the claim says which job it runs."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import time

from celery import Celery
from celery.signals import setup_logging, worker_shutting_down
from kombu.asynchronous import get_event_loop
from redis import Redis

from jobs.errors import STORE_AWAY
from jobs.messages import TASK, Messenger, celery_app, queue_name
from jobs.settings import Settings, connect
from jobs.store import JobStore
from monitoring.storage import open_storage
from worker.child import start_cold
from worker.launch import Slot, usual_environment
from worker.scratch import remove_left_behind
from worker.supervisor import Attendance, Service, supervise
from worker.warm_start import WarmStart

log = logging.getLogger("worker")

_RETRY_SECONDS = 2.0
# After the end of a task, when Celery has surely taken note of it.
_LISTEN_AGAIN_SECONDS = (0.005, 0.05)


def create_worker(settings: Settings, store: JobStore) -> Celery:
    """The Celery application whose one task runs the next job of the settings' pool."""
    remove_left_behind(settings.scratch_dir)
    attendance = Attendance()
    slot = Slot.of_this_process(settings.device)
    service = Service(
        settings,
        store,
        Messenger(settings, store),
        open_storage(settings.storage_url, settings.s3_endpoint_url),
        slot,
        attendance,
        WarmStart(usual_environment(slot)).start if settings.warm_start else start_cold,
    )
    # One incarnation of this worker: a process that is started again is another one.
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
    app = celery_app(settings)

    @app.task(name=TASK)  # type: ignore[untyped-decorator]
    def run(job_id: str) -> None:
        """Runs what waits in the pool, which may be other jobs than `job_id`, or none any more."""
        while attendance.stop_since is None:
            try:
                job = store.claim(settings.pool, name)
            except STORE_AWAY as error:
                log.warning("cannot claim a job, the message is dropped and sent again: %s", error)
                break
            if job is None:
                log.debug("nothing waits in pool %s any more (woken for %s)", settings.pool, job_id)
                break
            supervise(service, job)
        _listen_again()

    def on_shutdown(**_: object) -> None:
        attendance.stop()

    worker_shutting_down.connect(on_shutdown, weak=False)
    log.info("worker %s: pool %s, GPUs: %s", name, settings.pool,
             ", ".join(service.slot.gpus) or "none, on the CPU")  # fmt: skip
    return app


def _listen_again() -> None:
    """Has Celery wait for the next message at once.

    While a task runs it does not, and it would notice the end of it up to a second late.
    """
    if (hub := get_event_loop()) is not None:
        for seconds in _LISTEN_AGAIN_SECONDS:
            hub.call_soon(hub.call_later, seconds, lambda: None)  # type: ignore[no-untyped-call]


def _keep_logging(**_: object) -> None:
    """Leaves logging as `main` set it up."""


def wait_for_redis(redis: Redis) -> None:
    """Returns when Redis answers; says what it waits for."""
    pool = redis.connection_pool.connection_kwargs
    where = pool.get("path") or f"{pool.get('host')}:{pool.get('port')}"
    told = False
    while True:
        try:
            redis.ping()
        except STORE_AWAY as error:
            if not told:
                log.warning("cannot reach Redis at %s, waiting for it: %s", where, error)
            told = True
            time.sleep(_RETRY_SECONDS)
        else:
            if told:
                log.info("Redis at %s answers", where)
            return


def main() -> None:
    """Runs the worker process until it is told to stop."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # Celery would set up logging anew; its own words are for those who look into Celery.
    setup_logging.connect(_keep_logging, weak=False)
    logging.getLogger("celery").setLevel(logging.WARNING)
    settings = Settings()
    redis = connect(settings)
    wait_for_redis(redis)
    app = create_worker(settings, JobStore(redis, prefix=settings.redis_prefix,
                                           lease_seconds=settings.lease_seconds))  # fmt: skip
    app.worker_main(
        [
            "--quiet",
            "worker",
            "--pool=threads",
            "--concurrency=1",
            f"--queues={queue_name(settings, settings.pool)}",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )
