"""The Python client: jobs of a Spectrain service over HTTP.

with Client("http://127.0.0.1:8080") as client:
    job = client.submit({"name": "wave", "train": {"steps": 2000}})
    for text in client.logs(job.id, follow=True):
        print(text, end="")
    client.fetch(job.id, Path("wave"))
"""

from __future__ import annotations

import codecs
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Self
from urllib.parse import quote

from api.client.transport import ApiError, Transport, Unreachable
from api.schemas import (
    IDEMPOTENCY_KEY,
    JOB_STATE,
    NEXT_OFFSET,
    Artifact,
    ArtifactList,
    EventPage,
    JobPage,
    JobView,
    MetricsPage,
    PoolList,
    WorkerList,
)
from jobs.model.record import Event, Job
from jobs.model.spec import JobSpec
from jobs.model.states import State
from jobs.model.workers import Pool, Worker

__all__ = ["ApiError", "Client", "Unreachable"]

_PAGE = 200


class Client:
    """Calls one service.

    A call that finds nobody to connect to is tried again for `patience` seconds; reading, and
    submitting with its Idempotency-Key, also while nobody answers or the service says 503. Every
    other call is made once. `on_wait` is called with a sentence when a call has to wait. Each
    method may raise `ApiError` and `Unreachable`.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = 30.0,
        patience: float = 10.0,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self._http = Transport(url, token, timeout=timeout, patience=patience, on_wait=on_wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    # -- jobs -----------------------------------------------------------------------------

    def submit(
        self, spec: JobSpec | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> JobView:
        """The accepted job; the first one again for the same `idempotency_key`.

        Without a key of yours one is made, so that a submission whose answer was lost is not
        made twice.
        """
        body = spec.model_dump(mode="json") if isinstance(spec, JobSpec) else dict(spec)
        headers = {IDEMPOTENCY_KEY: idempotency_key or secrets.token_hex(16)}
        return self._http.read(JobView, "POST", "/v1/jobs", json=body, headers=headers)

    def get(self, job_id: str) -> JobView:
        """The job with its attempts, progress and place in the queue."""
        return self._http.read(JobView, "GET", _path(job_id))

    def list(
        self,
        *,
        state: State | str | None = None,
        labels: Mapping[str, str] | None = None,
        pool: str | None = None,
        name: str | None = None,
        limit: int | None = 50,
    ) -> Iterator[Job]:
        """Jobs, newest first, at most `limit` of them, all for None; read page by page."""
        parameters: dict[str, Any] = {"state": state, "pool": pool, "name": name}
        parameters["label"] = [f"{key}:{value}" for key, value in (labels or {}).items()]
        left, cursor = limit, None
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            query = {**parameters, "limit": size, "cursor": cursor}
            page = self._http.read(JobPage, "GET", "/v1/jobs", query)
            yield from page.jobs
            left = None if left is None else left - len(page.jobs)
            cursor = page.cursor
            if cursor is None:
                return

    def cancel(self, job_id: str) -> JobView:
        """Asks for the job's end."""
        return self._ask(job_id, "cancel")

    def preempt(self, job_id: str) -> JobView:
        """Takes a running job off its worker; it is queued again."""
        return self._ask(job_id, "preempt")

    def pause(self, job_id: str) -> JobView:
        """Lets a running job save and hold."""
        return self._ask(job_id, "pause")

    def resume(self, job_id: str) -> JobView:
        """Queues a paused job."""
        return self._ask(job_id, "resume")

    def retry(self, job_id: str) -> JobView:
        """Queues a job that failed or was cancelled; it goes on from its latest checkpoint."""
        return self._ask(job_id, "retry")

    def change(self, job_id: str, **changes: Any) -> JobView:
        """Changes `priority`, `labels`, `limits` or `preemptible` of a job that has not ended.

        What is left out stays; None takes a limit or a label away.
        """
        return self._http.read(JobView, "PATCH", _path(job_id), json=changes)

    def delete(self, job_id: str, *, files: bool = False) -> None:
        """Forgets a job in a final state, with `files` also what its run left."""
        self._http.call("DELETE", _path(job_id), {"files": files})

    def wait(self, job_id: str, timeout: float | None = None, *, poll: float = 0.5) -> JobView:
        """The job in its final state; raises `TimeoutError` after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            job = self.get(job_id)
            if job.state.is_final:
                return job
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} is still {job.state} after {timeout:g} s")
            time.sleep(poll)

    # -- runs -----------------------------------------------------------------------------

    def events(self, job_id: str) -> Iterator[Event]:
        """What happened to the job so far, oldest first."""
        path, after = _path(job_id, "events"), None
        while True:
            page = self._http.read(EventPage, "GET", path, {"after": after})
            if not page.events:
                return
            yield from page.events
            after = page.after

    def metrics(self, job_id: str, *, after_step: int = -1) -> Iterator[dict[str, Any]]:
        """The rows of the run's metrics.jsonl of steps after `after_step`, so far."""
        path = _path(job_id, "metrics")
        while True:
            page = self._http.read(MetricsPage, "GET", path, {"after_step": after_step})
            if not page.rows or page.after_step is None:
                return
            yield from page.rows
            after_step = page.after_step

    def logs(
        self, job_id: str, *, attempt: int | None = None, follow: bool = False, poll: float = 0.5
    ) -> Iterator[str]:
        """What the training process printed, in pieces; with `follow` until the job has ended.

        With `attempt` the lines of that attempt only.
        """
        pieces = self._log(job_id, follow=follow, poll=poll)
        return pieces if attempt is None else _lines_of(attempt, pieces)

    def _log(self, job_id: str, *, follow: bool, poll: float) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        path, offset = _path(job_id, "logs"), 0
        while True:
            answer = self._http.call("GET", path, {"offset": offset})
            offset = int(answer.headers[NEXT_OFFSET])
            if answer.content:
                yield decoder.decode(answer.content)
            elif not follow or State(answer.headers[JOB_STATE]).is_final:
                return
            else:
                time.sleep(poll)

    def artifacts(self, job_id: str) -> Sequence[Artifact]:
        """The files of the run."""
        return self._http.read(ArtifactList, "GET", _path(job_id, "artifacts")).artifacts

    def fetch(
        self, job_id: str, directory: Path, *, wanted: Callable[[str], bool] = lambda _: True
    ) -> Sequence[Path]:
        """The paths of all files of the run whose names are `wanted`, now below `directory`.

        Each file is there whole or not at all. One that is there already, with the size and the
        time of change that the service names, is not fetched again.
        """
        files = [file for file in self.artifacts(job_id) if wanted(file.path)]
        return [self._fetch(job_id, file, directory) for file in files]

    # -- workers --------------------------------------------------------------------------

    def workers(self) -> Sequence[Worker]:
        """The workers that are there, and what each does."""
        return self._http.read(WorkerList, "GET", "/v1/workers").workers

    def drain(self, name: str) -> Worker:
        """Lets a worker end the job it runs and take no further one."""
        return self._http.read(Worker, "POST", f"/v1/workers/{quote(name, safe='')}/drain")

    def undrain(self, name: str) -> Worker:
        """Lets a drained worker take jobs again."""
        return self._http.read(Worker, "POST", f"/v1/workers/{quote(name, safe='')}/undrain")

    def pools(self) -> Sequence[Pool]:
        """The pools: workers by what they do, and jobs."""
        return self._http.read(PoolList, "GET", "/v1/pools").pools

    # -- the rest -------------------------------------------------------------------------

    def _ask(self, job_id: str, action: str) -> JobView:
        return self._http.read(JobView, "POST", _path(job_id, action))

    def _fetch(self, job_id: str, file: Artifact, directory: Path) -> Path:
        parts = PurePosixPath(file.path)
        if parts.is_absolute() or ".." in parts.parts:
            raise Unreachable(self._http.url, ValueError(f"it names a file {file.path!r}"))
        target = directory / parts
        if target.is_file():
            there = target.stat()
            if there.st_size == file.size and abs(there.st_mtime - file.modified) < 1e-3:
                return target
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            path = _path(job_id, "artifacts", quote(file.path))
            self._http.download(path, temporary)
            # The time that was listed, not fetched: a file that changed in between is fetched
            # again the next time.
            os.utime(temporary, (file.modified, file.modified))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return target


def _lines_of(attempt: int, pieces: Iterator[str]) -> Iterator[str]:
    """The whole lines that are marked with the attempt."""
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        yield from (f"{line}\n" for line in lines if line.startswith(f"[{attempt}] "))
    if rest.startswith(f"[{attempt}] "):
        yield rest


def _path(job_id: str, *parts: str) -> str:
    return "/".join(["/v1/jobs", quote(job_id, safe=""), *parts])
