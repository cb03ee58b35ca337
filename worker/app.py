"""The Celery worker: a message wakes it, the claim says which job it runs."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import time

from celery import Celery
from celery.signals import setup_logging, worker_ready, worker_shutdown, worker_shutting_down
from redis import Redis

from jobs.errors import STORE_AWAY, ClaimRefusedError
from jobs.messages import TASK, Messenger, celery_app, queue_name
from jobs.nvml import open_nvml
from jobs.reaping import Reaping
from jobs.record import Job
from jobs.register import Register
from jobs.settings import Settings, connect
from jobs.store import JobStore, open_store
from monitoring.storage import newest_change, open_storage
from worker.child import start_cold
from worker.consumer import PromptConsumer, listen_again
from worker.health import GpuWatch
from worker.launch import Slot, usual_environment
from worker.presence import Identity, Presence
from worker.scratch import Tidying
from worker.service import Attendance, Service
from worker.supervisor import supervise
from worker.warm_start import WarmStart

log = logging.getLogger("worker")

_RETRY_SECONDS = 2.0


def create_worker(settings: Settings, store: JobStore) -> Celery:  # noqa: PLR0915  all the wiring
    """The Celery application whose one task runs the next job of the settings' pool."""
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
    nvml = open_nvml(service.slot.gpus)
    gpus = GpuWatch(nvml)
    host = socket.gethostname()
    name = f"{host}-{os.getpid()}-{secrets.token_hex(2)}"
    presence = Presence(
        Register(store.redis, prefix=settings.redis_prefix, lease_seconds=settings.lease_seconds),
        Identity(name, settings.pool, host, nvml.names() if nvml else service.slot.gpus),
        seconds=settings.lease_seconds / 5,
        health=gpus.verdict,
        leaving=lambda: attendance.stop_since is not None,
    )
    app = celery_app(settings)
    app.conf.worker_consumer = PromptConsumer.NAME

    gpus.on_change = presence.tell
    reaping = Reaping(settings, lambda job: newest_change(service.storage, job.id))

    tidying = Tidying(settings.scratch_dir, seconds=settings.lease_seconds)

    def claim(message: str | None) -> Job | None:
        """The next job; with a message in hand it waits while this worker may take none."""
        handed_on = False
        while attendance.stop_since is None:
            if presence.may_take_jobs:
                try:
                    return store.claim(settings.pool, name)
                except ClaimRefusedError:
                    presence.refused()
                except STORE_AWAY as error:
                    log.warning("cannot claim a job, its message is sent again: %s", error)
                    return None
            if message is None:
                return None
            # Celery gives a worker that is at work no further message: while it waits here, this
            # one takes none away from those who may run a job.
            if not handed_on:
                _hand_on(service.messenger, settings.pool, message)
            handed_on = True
            presence.wait(_RETRY_SECONDS)
        return None

    @app.task(name=TASK)  # type: ignore[untyped-decorator]
    def run(job_id: str) -> None:
        """Runs what waits in the pool, which may be other jobs than `job_id`, or none any more."""
        message: str | None = job_id
        while (job := claim(message)) is not None:
            message = None  # its job has been found
            with gpus.at_work():
                supervise(service, job)
        log.debug("nothing more to run in pool %s (woken for %s)", settings.pool, job_id)
        listen_again()

    def on_ready(**_: object) -> None:
        tidying.start()
        gpus.start()
        reaping.start()
        presence.start()

    def on_shutdown(**_: object) -> None:
        attendance.stop()
        presence.tell()

    def on_end(**_: object) -> None:
        tidying.stop()
        reaping.stop()
        presence.stop()

    worker_ready.connect(on_ready, weak=False)
    worker_shutting_down.connect(on_shutdown, weak=False)
    worker_shutdown.connect(on_end, weak=False)
    log.info("worker %s: pool %s, GPUs: %s", name, settings.pool,
             ", ".join(service.slot.gpus) or "none, on the CPU")  # fmt: skip
    return app


def _hand_on(messenger: Messenger, pool: str, job_id: str) -> None:
    """Sends a message on to another worker; should that fail, the reaper sends it again."""
    try:
        messenger.announce(pool, job_id)
    except Exception as error:
        log.warning("a message of job %s is lost for a moment: %s", job_id, error)


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
    app = create_worker(settings, open_store(redis, settings))
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
