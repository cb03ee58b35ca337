"""The Celery application of a worker: a message wakes it, the claim decides which job it runs."""

from __future__ import annotations

import logging
import os
import sys
import time

from celery import Celery
from celery.signals import setup_logging, worker_ready, worker_shutdown, worker_shutting_down
from redis import Redis

from jobs.errors import STORE_AWAY
from jobs.messages import TASK, celery_app, queue_name
from jobs.redis_address import where_is
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore, open_store
from machine.control_groups import counts_processes, divide, divided_group, own_group
from worker.consumer import PromptConsumer, listen_again, log_outages_briefly
from worker.launch.group import remove_left
from worker.losses.memory import limit_around
from worker.losses.witness import fork_witness
from worker.process import WorkerProcess

log = logging.getLogger("worker")

_RETRY_SECONDS = 2.0


def create_worker(settings: Settings, store: JobStore, umask: int | None = None) -> Celery:
    """The Celery application; its only task runs the next jobs of the pool in `settings`.

    `umask` is that of the jobs.
    """
    worker = WorkerProcess(settings, store, umask)
    app = celery_app(settings)
    app.conf.worker_consumer = PromptConsumer.NAME

    @app.task(name=TASK)  # type: ignore[untyped-decorator]
    def run(job_id: str) -> None:
        """Runs the jobs that wait; `job_id` is only a hint that there are some."""
        worker.work(job_id)
        listen_again()

    worker_ready.connect(worker.begin, weak=False)
    worker_shutting_down.connect(worker.leave, weak=False)
    worker_shutdown.connect(worker.end, weak=False)
    return app


def _keep_logging(**_: object) -> None:
    """Keeps Celery from replacing the logging that `main` configures."""


def wait_for_redis(redis: Redis) -> None:
    """Returns when Redis answers; logs what it is waiting for."""
    where = where_is(redis)
    warned = False
    while True:
        try:
            redis.ping()
        except STORE_AWAY as error:
            if not warned:
                log.warning("cannot reach Redis at %s, retrying: %s", where, error)
            warned = True
            time.sleep(_RETRY_SECONDS)
        else:
            if warned:
                log.info("Redis at %s answers", where)
            return


def _divide_group() -> None:
    division = divide()
    if division.group is not None:
        log.info("control group %s is divided: for lack of memory, a job is killed alone",
                 division.group)  # fmt: skip
        remove_left(division.group)
    elif (own := own_group()) is not None and limit_around(own) is not None:
        log.info("a job shares the memory limit of this worker: its control group cannot be "
                 "divided, %s", division.why)  # fmt: skip


def _check_processes(settings: Settings) -> None:
    """Says that a limit has no effect."""
    if settings.job_processes and not settings.job_user and not counts_processes(divided_group()):
        log.warning("SPECTRAIN_JOB_PROCESSES has no effect here: it needs SPECTRAIN_JOB_USER, or a "
                    "control group of version 2 that the worker may divide, with pids")  # fmt: skip


def _drop_tokens() -> None:
    """A worker calls no API, and whoever gets into it is to find none of its tokens."""
    for name in ("SPECTRAIN_API_TOKENS", "SPECTRAIN_API_TOKENS_FILE"):
        if os.environ.pop(name, None):
            log.warning("%s is set, which a worker does not use: remove it from its environment",
                        name)  # fmt: skip


def main() -> None:
    """Runs the worker until SIGTERM."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # Celery would configure logging again, and logs details that matter only when debugging Celery.
    setup_logging.connect(_keep_logging, weak=False)
    logging.getLogger("celery").setLevel(logging.WARNING)
    log_outages_briefly()
    _drop_tokens()
    settings = Settings()
    umask = os.umask(settings.umask_bits)
    _divide_group()  # before this process has others
    _check_processes(settings)
    fork_witness(settings)  # before this process has threads and connections
    redis = connect(settings)
    wait_for_redis(redis)
    app = create_worker(settings, open_store(redis, settings), umask)
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
