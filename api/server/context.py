"""The objects that the views work with, made once in `api.server.app.create_app`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import cast

from flask import current_app

from api.server.access.access import Access
from api.server.curves.indexes import MetricsIndexes
from api.server.listing import Listing
from api.server.readiness import Readiness
from jobs.accounts.book import TokenBook
from jobs.accounts.store import TokenStore
from jobs.forecast.forecast import Forecast
from jobs.messages import Messenger
from jobs.model.record import Job
from jobs.reaper.backup import Backup, RecordCopy
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from monitoring.storage.base import Storage, StorageError
from monitoring.storage.run_records import RunRecords

EXTENSION = "spectrain"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AppContext:
    """Settings, store, registry, messenger, storage, forecast, listing and tokens of one
    application.

    `curves` are the indexes of the runs whose curves somebody asked for lately.
    """

    settings: Settings
    store: JobStore
    registry: WorkerRegistry
    messenger: Messenger
    storage: Storage
    readiness: Readiness
    tokens: TokenBook
    token_store: TokenStore
    access: Access
    forecast: Forecast
    listing: Listing
    curves: MetricsIndexes = field(default_factory=MetricsIndexes)

    def close(self) -> None:
        """Closes the connections."""
        self.tokens.close()
        self.readiness.leave()
        self.messenger.close()
        self.store.redis.close()

    def record_deletion(self, job_id: str) -> None:
        """Records in the run, whose files stay, that its job was deleted.

        Otherwise `spectrain gc` would keep the files, and `spectrain reindex` restore the job.
        """
        try:
            Backup(self.store, RunRecords(self.storage)).copy(job_id)
        except (OSError, StorageError) as error:
            log.warning("cannot record in storage that job %s was deleted: %s", job_id, error)

    def reserve(self, job_id: str) -> None:
        """Marks a run, whose job is about to be submitted, as one without a job.

        If that never happens, `spectrain gc` removes what lies there by then. The backup of the
        job's record replaces the mark.
        """
        mark = RecordCopy({"deleting": "1"}, [])
        RunRecords(self.storage).put(job_id, mark.encode())

    def back_up(self, job_id: str) -> None:
        """Backs up the record of a job now; the reaper does it in a moment if this fails."""
        try:
            Backup(self.store, RunRecords(self.storage)).copy(job_id)
        except (OSError, StorageError) as error:
            log.warning("cannot back up the record of job %s to storage: %s", job_id, error)

    def announce(self, job: Job) -> None:
        """Wakes a worker for a queued job.

        The job is already accepted and its message is in the outbox. So an error here delays the
        job until the reaper's next pass, and must not fail the request.
        """
        try:
            self.messenger.announce(job.spec.resources.pool, job.id)
        except Exception as error:
            log.warning("cannot send the message of job %s, the reaper will: %s", job.id, error)


def context() -> AppContext:
    """The context of the application that handles this request."""
    return cast(AppContext, current_app.extensions[EXTENSION])
