"""Reports the progress of an attempt with its lease, and advises once about its checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from jobs.model.record import Job, Progress
from worker.attempt.advice import advise
from worker.attempt.context import WorkerContext
from worker.attempt.lease import Lease
from worker.attempt.observe import Observer
from worker.files.listing import short
from worker.files.publish import Publisher

log = logging.getLogger(__name__)

_MOST_REFUSALS = 20


class Reporter:
    """The numbers of one attempt, counted from the time when this object was made."""

    def __init__(self, context: WorkerContext, job: Job, lease: Lease) -> None:
        self.begun = time.monotonic()
        self._measures: dict[str, object] = {}
        self._context = context
        self._job = job
        self._lease = lease
        self._unreadable = False  # whether that was logged
        self._refused: set[Path] = set()

    def note(self, measures: Mapping[str, object]) -> None:
        """Adds fields of the receipt, by name, that are known before the program starts."""
        self._measures.update(measures)

    @property
    def seconds(self) -> float:
        """Seconds since the attempt began."""
        return time.monotonic() - self.begun

    @property
    def run_seconds(self) -> float:
        """Run time of the job's attempts so far."""
        return self._job.run_seconds + self.seconds

    def report(self, observer: Observer, publisher: Publisher) -> None:
        """Reports the progress; no content of the job's files may end the job."""
        try:
            progress = observer.progress()
        except Exception as error:  # malformed rows, directories in place of files, …
            progress = self._lease.progress
            if not self._unreadable:
                log.warning("job %s: cannot read its progress: %r", self._job.id, error)
            self._unreadable = True
        self._lease.report(self._with_storage(progress, publisher))

    def update(self, publisher: Publisher) -> None:
        """Updates what the last report says of storage, for the end of the attempt."""
        self._lease.progress = self._with_storage(self._lease.progress, publisher)

    def advise(self, publisher: Publisher) -> bool:
        """Logs once that a save and its upload exceed the grace period; whether it did so now."""
        saved = publisher.checkpoint
        if self._lease.advice is not None or saved is None or saved.attempt != self._job.attempt:
            return False
        self._lease.advice = advise(
            self._job,
            self._lease.progress,
            save_seconds=saved.seconds,
            upload_seconds=publisher.longest_seconds,
            grace_seconds=self._context.settings.grace_seconds,
            run_seconds=self.run_seconds,
        )
        if self._lease.advice is not None:
            publisher.add_line(str(self._lease.advice))
        return self._lease.advice is not None

    def refuse(self, publisher: Publisher) -> None:
        """Says in the log, and by an event, which files cannot be stored for their names."""
        for path, why in publisher.unstorable.items():
            if path not in self._refused and len(self._refused) < _MOST_REFUSALS:
                self._refused.add(path)
                publisher.add_line(f"cannot be saved: {short(path)}: {why}")
                self._lease.remark("not_saved", {"path": short(path), "why": why})

    def _with_storage(self, progress: Progress, publisher: Publisher) -> Progress:
        """The progress, with what storage has of it."""
        return progress.model_copy(
            update={
                "checkpoint_step": publisher.checkpoint.step if publisher.checkpoint else None,
                "uploaded_bytes": publisher.uploaded_bytes,
                **self._measures,
            }
        )
