"""One worker without Celery, for tests of how it runs a job."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from api.local.redis_server import RedisConfig
from jobs.messages import Messenger
from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.paths import RunPaths
from monitoring.storage.directory import FileStorage
from monitoring.storage.open import open_storage
from worker.attempt.context import ShutdownState, WorkerContext
from worker.attempt.supervisor import supervise
from worker.launch.child import Start, start_cold
from worker.launch.prepare import Slot, base_environment

STUBBORN = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); "
    "print('up', flush=True); time.sleep(600)"
)
# A disk of the size that mount understands, such as 64k.
DiskOf = Callable[[str], Path]
# A Redis that a test may take away: its configuration, and what starts it (again).
OwnRedis = tuple[RedisConfig, Callable[[], "subprocess.Popen[bytes]"]]
BEATS = "from monitoring import step_counter; import time\n"


def python(script: str, **spec: object) -> JobSpec:
    fields = {"name": "a", "command": ["python", "-c", script], "retry": {"backoff_seconds": 0}}
    return JobSpec.model_validate({**fields, **spec})


def worker_settings(settings: Settings) -> dict[str, str]:
    """The environment of a worker process with these settings, on the CPU."""
    return {
        "SPECTRAIN_REDIS_URL": settings.redis_url,
        "SPECTRAIN_STORAGE_URL": settings.storage_url,
        "SPECTRAIN_SCRATCH_DIR": str(settings.scratch_dir),
        "SPECTRAIN_LEASE_SECONDS": str(settings.lease_seconds),
        "SPECTRAIN_DEVICE": "cpu",
    }


# What a worker's fork server and its jobs have in common, with the settings of the tests.
USUAL = {
    name: value
    for name, value in base_environment(Slot(()), Settings(grace_seconds=30)).items()
    if not name.startswith("PYTEST_")
}


class Bench:
    """One worker without Celery."""

    def __init__(self, settings: Settings, store: JobStore, start: Start = start_cold) -> None:
        self.settings = settings
        self.store = store
        self.shutdown_state = ShutdownState()
        storage = open_storage(settings.storage_url)
        assert isinstance(storage, FileStorage)
        self.storage = storage
        messenger = Messenger(settings, store)
        self.service = WorkerContext(
            settings, store, messenger, storage, Slot(()), self.shutdown_state, start
        )

    def claim(self, spec: JobSpec) -> Job:
        self.store.submit(spec)
        job = self.store.claim("default", "w")
        assert job is not None
        return job

    def run(self, spec: JobSpec) -> Job:
        job = self.claim(spec)
        supervise(self.service, job)
        return self.store.get(job.id)

    def begin(self, job: Job) -> threading.Thread:
        thread = threading.Thread(target=supervise, args=(self.service, job), daemon=True)
        thread.start()
        return thread

    def files(self, job: Job) -> RunPaths:
        return RunPaths(self.storage.root / job.id)

    def output(self, job: Job) -> str:
        log = self.files(job).output_log
        return log.read_text() if log.exists() else ""
