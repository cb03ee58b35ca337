"""One worker process: its components, and how it turns messages into attempts."""

from __future__ import annotations

import logging
import os
import secrets
import socket

from celery.worker import state

from jobs.checks import Checks, StartupChecks
from jobs.errors import STORE_AWAY, ClaimRefusedError
from jobs.messages import Messenger
from jobs.model.record import Job
from jobs.reaper.thread import Reaping
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from monitoring.storage.base import newest_change
from monitoring.storage.open import open_storage
from monitoring.storage.probe import StorageProbe
from monitoring.storage.run_records import RunRecords
from worker.attempt.context import ShutdownState, WorkerContext
from worker.attempt.supervisor import supervise
from worker.cluster.deletion_cost import BUSY, IDLE, pod_deletion_cost
from worker.cluster.registration import Identity, Registration
from worker.cluster.requests import RequestListener
from worker.files.scratch import ScratchCleaner
from worker.files.scratch_disk import ScratchDisk
from worker.gpu.nvml import open_nvml
from worker.gpu.watch import GpuWatch
from worker.launch.child import Start, start_cold
from worker.launch.fork_client import ForkServerClient
from worker.launch.prepare import Slot, base_environment
from worker.launch.rights import Rights
from worker.launch.user import JobUser
from worker.losses.watch import LossWatch
from worker.spot.notices import Notice
from worker.spot.watch import SpotWatch, watched_service

log = logging.getLogger("worker")

_REFUSED_SECONDS = 2.0


def _start_of_children(slot: Slot, settings: Settings, user: JobUser | None) -> Start:
    if not settings.warm_start:
        return start_cold
    return ForkServerClient(base_environment(slot, settings, user=user)).start


class WorkerProcess:
    """Claims jobs of the pool in the settings and runs them, one at a time.

    A restarted process is a new worker with a new name.
    """

    def __init__(self, settings: Settings, store: JobStore, umask: int | None = None) -> None:
        """`umask` is that of the jobs."""
        slot = Slot.of_this_process(settings.device)
        nvml = open_nvml(slot.gpus)
        self._gpus = GpuWatch(nvml)
        user = JobUser.of(settings)
        if user is None and os.geteuid() == 0:
            log.warning("this worker runs as root, and so do its jobs, which may read all that it "
                        "can: set SPECTRAIN_JOB_USER, or start it as another user")  # fmt: skip
        self._shutdown_state = ShutdownState()
        self._context = WorkerContext(
            settings,
            store,
            Messenger(settings, store),
            open_storage(settings.storage_url, **settings.storage_options),
            slot,
            self._shutdown_state,
            _start_of_children(slot, settings, user),
            lambda: self._gpus.readings,
            user,
            Rights(umask=umask) if user is None else user.rights(settings, umask),
        )
        self._disk = ScratchDisk(settings.scratch_dir)
        self._spot = SpotWatch(
            watched_service(settings),
            grace_seconds=settings.grace_seconds,
            on_notice=self._take_notice,
            on_change=self._tell,
        )
        storage = self._context.storage
        host = socket.gethostname()
        gpus = nvml.names() if nvml else slot.gpus
        name = f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
        lease = settings.lease_seconds
        self._registration = Registration(
            WorkerRegistry(store.redis, prefix=settings.redis_prefix, lease_seconds=lease),
            Identity(name, settings.pool, host, gpus),
            seconds=lease / 5,
            health=lambda: self._gpus.verdict() or self._disk.verdict_now() or self._checks.verdict,
            leaving=lambda: self._shutdown_state.reason or self._spot.standing,
            gpus=lambda: self._gpus.states(gpus),
            renewed_at=lambda: self._shutdown_state.renewed_at,
        )
        self._gpus.on_change = self._tell
        probe = StorageProbe(storage, settings.storage_url)
        self._checks = StartupChecks(Checks(store.redis, settings, probe), self._tell)
        self._requests = RequestListener(settings, name, self._handle_request)
        self._cost = pod_deletion_cost(os.environ)
        self._reaping = Reaping(
            settings, lambda job: newest_change(storage, job.id), RunRecords(storage)
        )
        self._scratch_cleaner = ScratchCleaner(
            settings.scratch_dir, seconds=lease, then=self._context.cache.trim
        )
        self._losses = LossWatch(settings.scratch_dir, store, self._context.messenger)
        log.info("worker %s: pool %s, GPUs: %s", name, settings.pool,
                 ", ".join(slot.gpus) or "none, uses the CPU")  # fmt: skip

    # -- lifecycle -----------------------------------------------------------------------------

    def begin(self, **_: object) -> None:
        """Starts the background threads; Celery delivers messages from now on."""
        self._losses.start()
        self._scratch_cleaner.start()
        self._gpus.start()
        self._disk.check()
        self._checks.start()
        self._spot.start()
        self._reaping.start()
        self._cost.start()
        self._registration.start()
        self._requests.start()

    def leave(self, **_: object) -> None:
        """Stops claiming jobs and has the running one saved; safe to call from a signal handler."""
        self._shutdown_state.stop()
        self._tell()

    def end(self, **_: object) -> None:
        """Removes the worker from the registry and lets another process run the reaper."""
        self._requests.stop()
        self._losses.stop()
        self._scratch_cleaner.stop()
        self._reaping.stop()
        self._cost.stop()
        self._registration.stop()
        self._checks.stop()

    # -- work -----------------------------------------------------------------------------

    def work(self, message: str) -> None:
        """Runs the jobs that wait in the pool; they need not include the one in `message`."""
        held: str | None = message
        try:
            while (job := self._claim(held)) is not None:
                held = None  # the message has led to a job
                self._cost.set(BUSY)
                try:
                    with self._gpus.at_work():
                        supervise(self._context, job)
                finally:
                    if self._context.user is not None:
                        self._context.user.clean()
        finally:
            self._cost.set(IDLE)
        log.debug("nothing more to run (woken for %s)", message)

    def _claim(self, message: str | None) -> Job | None:
        """The next job, or None; with a `message`, waits while this worker may take no job."""
        pool, handed_on = self._context.settings.pool, False
        while self._shutdown_state.stop_since is None:
            if self._registration.may_take_jobs and self._disk.check():
                self._registration.refused()
            elif self._registration.may_take_jobs:
                try:
                    return self._context.store.claim(pool, self._registration.identity.name)
                except ClaimRefusedError:
                    self._registration.refused()
                except STORE_AWAY as error:
                    log.warning("cannot claim a job, the reaper sends its message again: %s", error)
                    return None
            if message is None:
                return None
            # Celery delivers no further message to a busy worker: while this one waits here, it
            # takes none away from workers that may run a job.
            if not handed_on:
                self._hand_on(message)
            handed_on = True
            self._registration.wait(_REFUSED_SECONDS)
        return None

    def _hand_on(self, message: str) -> None:
        """Passes a message on to another worker; if that fails, the reaper sends it again."""
        try:
            self._context.messenger.announce(self._context.settings.pool, message)
        except Exception as error:
            log.warning(
                "cannot pass on the message of job %s, the reaper sends it again: %s",
                message,
                error,
            )

    def _take_notice(self, notice: Notice) -> None:
        self._shutdown_state.leave(str(notice), notice.left)
        self._tell()
        state.should_stop = 0  # as Celery's SIGTERM handler does

    def _handle_request(self) -> None:
        self._shutdown_state.notify_request()
        self._tell()

    def _tell(self) -> None:
        self._registration.trigger()
