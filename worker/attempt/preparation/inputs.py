"""The inputs of a job in one attempt: fetched before its program starts, and linked by name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from jobs.model.record import Job
from jobs.model.states import Reason
from monitoring.disk import file_size
from monitoring.storage.base import StorageError
from worker.attempt.context import WorkerContext
from worker.attempt.outcome import Outcome
from worker.attempt.retry import OUTAGE_SECONDS, RETRY_SECONDS
from worker.cache.cache import Held, Unwanted
from worker.inputs.fetch import Fetched, fetch_input
from worker.inputs.source import InputChangedError, InputError
from workspaces.layout import count_text

log = logging.getLogger(__name__)

_SAY_SECONDS = 10.0


class AttemptInputs:
    """Fetches the inputs of an attempt; `say` adds a line to the log of its run.

    What it holds in the cache is in `held`, for the caller to let go.
    """

    def __init__(
        self,
        context: WorkerContext,
        job: Job,
        wanted: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self.held: list[Held] = []
        self._context = context
        self._job = job
        self._wanted = wanted
        self._say = say
        self._seconds = 0.0
        self._bytes = 0
        self._versions: dict[str, str] = {}

    def measures(self) -> dict[str, object]:
        """The fields of a receipt."""
        return {
            "inputs_seconds": self._seconds,
            "inputs_bytes": self._bytes,
            "inputs": dict(self._versions),
        }

    def fetch(self, links: Path) -> Outcome | None:
        """Makes a link to each input in the new directory `links`; why not, if one is not there.

        Raises `CacheFullError`, `Unwanted`, and `OSError` for a scratch disk that fails.
        """
        links.mkdir()
        links.chmod(0o755)  # for the user of the job
        begun = time.monotonic()
        try:
            for name in self._job.spec.inputs:
                found = self._fetch(name)
                if isinstance(found, Outcome):
                    return found
                (links / name).symlink_to(found.path)
        finally:
            self._seconds = time.monotonic() - begun
        return None

    def _fetch(self, name: str) -> Fetched | Outcome:
        url, begun = self._job.spec.inputs[name], time.monotonic()
        before = self._version_before(name)
        try:
            found = self._through_outages(name, url, before)
        except InputChangedError as error:
            return Outcome(Reason.STORAGE, f"input {name}: {error}")
        except InputError as error:
            return Outcome(Reason.ERROR, f"input {name}: {error}", retryable=False)
        if isinstance(found, Outcome):
            return found
        self.held.append(found.held)
        self._versions[name] = found.version
        self._bytes += found.bytes
        if before not in {None, found.version}:
            return Outcome(
                Reason.ERROR,
                f"input {name}: {url} has changed since the attempt before, and this machine does "
                "not have the old version: `spectrain retry` goes on with the new one",
                retryable=False,
            )
        how = "fetched" if found.built else "from the cache of this machine"
        seconds = time.monotonic() - begun
        amount = f"{count_text(found.files)}, {file_size(found.bytes)}"
        self._say(f"input {name}, {amount}: {how} in {seconds:.2f} s")
        return found

    def _version_before(self, name: str) -> str | None:
        """The version that the newest earlier attempt had; an attempt that failed for it too."""
        earlier = (attempt.inputs.get(name) for attempt in reversed(self._job.attempts[:-1]))
        return next(filter(None, earlier), None)

    def _through_outages(self, name: str, url: str, version: str | None) -> Fetched | Outcome:
        """Fetches an input, again and again while its source is away."""
        give_up_at, warned = time.monotonic() + OUTAGE_SECONDS, False
        told = time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told > _SAY_SECONDS:
                told = time.monotonic()
                self._say(f"input {name}: {file_size(done)} of {file_size(total)}")

        while self._wanted():
            try:
                found = fetch_input(
                    self._context.cache,
                    url,
                    self._context.settings,
                    version=version,
                    user=self._context.rights.uid,
                    wanted=self._wanted,
                    on_wait=lambda: self._say(f"input {name}: another worker fetches it"),
                    on_progress=progress,
                )
            except (StorageError, OSError) as error:
                if time.monotonic() > give_up_at:
                    return Outcome(Reason.STORAGE, f"input {name} could not be fetched: {error}")
                if not warned:
                    self._say(f"input {name}: {error}; tries again")
                    log.warning("job %s: input %s: %s", self._job.id, name, error)
                warned = True
                time.sleep(RETRY_SECONDS)
            else:
                if found is not None:
                    return found
        raise Unwanted
