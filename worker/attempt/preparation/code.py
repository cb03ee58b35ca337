"""The code of a job in one attempt: fetched before the restore, copied when it begins."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from jobs.model.record import Job
from jobs.model.states import Reason
from monitoring.storage.moments import Entry
from worker.attempt.context import WorkerContext
from worker.attempt.outcome import Outcome
from worker.cache.cache import CacheFullError, Held
from worker.code.fetch import fetch_code
from worker.code.place import place_code
from worker.files.given import Given
from workspaces.layout import FILES, WorkspaceError, bytes_text, count_text

log = logging.getLogger(__name__)


class AttemptCode:
    """The code of a job, if it brings any; `wanted` says whether the attempt still goes on."""

    def __init__(self, context: WorkerContext, job: Job, wanted: Callable[[], bool]) -> None:
        self.seconds: float | None = None  # that it took, once it is copied
        self.failure: Outcome | None = None  # why the attempt ends here
        self._context = context
        self._job = job
        self._wanted = wanted
        self._held: Held | None = None
        self._fetch_seconds = 0.0

    @property
    def is_there(self) -> bool:
        """Whether the attempt can have its code; also if the job brings none."""
        return self._job.spec.workspace is None or self._held is not None

    def fetch(self) -> None:
        """Fetches the code unless this machine has it; raises `OSError` and `StorageError`.

        A `failure` is none of these: to try again would not help here.
        """
        workspace = self._job.spec.workspace
        if workspace is None or self._held is not None:
            return
        begun = time.monotonic()
        try:
            self._held = fetch_code(
                self._context.cache,
                self._context.storage,
                workspace,
                limit=self._context.settings.workspace_bytes,
                wanted=self._wanted,
                on_wait=lambda: log.info(
                    "job %s: waits for its code, which another worker fetches", self._job.id
                ),
            )
        except WorkspaceError as error:
            self.failure = Outcome(Reason.ERROR, str(error), retryable=False)
        except CacheFullError as error:
            self.failure = Outcome(Reason.STORAGE, str(error))
        self._fetch_seconds += time.monotonic() - begun

    def place(
        self, run: Path, entries: Mapping[str, Entry], is_moment: bool, check: Callable[[], None]
    ) -> Given:
        """Copies the code into the run directory, before `entries` are restored; see `place_code`.

        `check` ends it by raising. Raises `OSError`.
        """
        if self._held is None:
            return Given()
        begun = time.monotonic()
        given = place_code(self._held.path, run, entries, is_moment=is_moment, on_file=check)
        self.seconds = self._fetch_seconds + time.monotonic() - begun
        return given

    @property
    def files(self) -> Path | None:
        """Where the code lies as it was sent; None without a workspace, and once it is let go."""
        return self._held.path / FILES if self._held is not None else None

    def line(self) -> str | None:
        """What the log of the run says of it; None without a workspace."""
        workspace = self._job.spec.workspace
        if workspace is None or self._held is None or self.seconds is None:
            return None
        where = "fetched" if self._held.built else "from the cache of this machine"
        return (
            f"workspace {workspace.sha256[:12]}, {count_text(workspace.files)}, "
            f"{bytes_text(workspace.bytes)}: {where} in {self.seconds:.2f} s"
        )

    def close(self) -> None:
        """Lets the cache remove the code; the attempt has its copy. May be called again."""
        if self._held is not None:
            self._held.close()
