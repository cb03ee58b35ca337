"""What the views work with, made once in `api.server.app.create_app`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import cast

from flask import current_app

from api.server.readiness import Readiness
from jobs.messages import Messenger
from jobs.model.record import Job
from jobs.reaper.backup import Backup
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from monitoring.storage.base import Storage, StorageError
from monitoring.storage.run_records import RunRecords

EXTENSION = "spectrain"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AppContext:
    """The rooms behind the HTTP calls."""

    settings: Settings
    store: JobStore
    registry: WorkerRegistry
    messenger: Messenger
    storage: Storage
    readiness: Readiness

    def close(self) -> None:
        """Closes the connections."""
        self.readiness.leave()
        self.messenger.close()
        self.store.redis.close()

    def leave_word(self, job_id: str) -> None:
        """Has the run that stays say that its job was deleted: nobody will take it for lost.

        Without that word `spectrain gc` lets it lie, and `spectrain reindex` brings the job back.
        """
        try:
            Backup(self.store, RunRecords(self.storage)).copy(job_id)
        except (OSError, StorageError) as error:
            log.warning("the files of job %s do not say that it was deleted: %s", job_id, error)

    def announce(self, job: Job) -> None:
        """Wakes a worker for a queued job.

        The job is accepted already and the outbox holds its message, so that whatever goes wrong
        here costs the time until the reaper's next pass and must not fail the request.
        """
        try:
            self.messenger.announce(job.spec.resources.pool, job.id)
        except Exception as error:
            log.warning("job %s waits for the reaper to announce it: %s", job.id, error)


def context() -> AppContext:
    """The service of the application that handles this request."""
    return cast(AppContext, current_app.extensions[EXTENSION])
