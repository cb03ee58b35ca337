"""The Python client: submits and controls jobs of a Spectrain service over HTTP.

with Client() as client:
    job = client.submit({"name": "wave", "train": {"steps": 2000}})
    for text in client.logs(job.id, follow=True):
        print(text, end="")
    client.fetch(job.id, Path("wave"))
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from api.client.accounts import Accounts
from api.client.files import Fetching, save_whole
from api.client.logs import log_matches, log_pieces
from api.client.metrics import Metrics, metric_rows
from api.client.nearest import nearest_service
from api.client.transport import ApiError, Transport, Unreachable
from api.client.workspaces import UNPACKED, CannotSendError, send_workspace, source_of
from api.schemas import (
    IDEMPOTENCY_KEY,
    Artifact,
    ArtifactList,
    Comparison,
    EventFeed,
    EventPage,
    Health,
    JobDiff,
    JobPage,
    JobPlan,
    JobView,
    LogMatch,
    PoolList,
    SeriesPage,
    WorkerList,
)
from jobs.model.record import Event, Job, Verdict
from jobs.model.spec import JobSpec
from jobs.model.states import State
from jobs.model.workers import Pool, Worker
from workspaces.archive import Packed

__all__ = ["ApiError", "CannotSendError", "Client", "Unreachable"]

_PAGE = 200


class Client:
    """A client of one service.

    Without a `url` it is that of `profile`, or else of SPECTRAIN_URL, SPECTRAIN_PROFILE or
    `~/.config/spectrain.toml`, as for the command line; without any, http://127.0.0.1:8080.
    Without a `token` it is that of the profile or of SPECTRAIN_API_TOKEN; "" sends none. Raises
    `SettingsRefusedError` if they cannot be used.

    Retries a call for `patience` seconds while no connection can be made. Reads, and submissions
    (which carry an Idempotency-Key), are also retried when no answer comes or the service answers
    503; other calls are sent once. `timeout` (seconds) limits each request. `on_wait` is called
    with a message when a call has to wait. Each method may raise `ApiError` and `Unreachable`.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        profile: str | None = None,
        timeout: float = 30.0,
        patience: float = 10.0,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        service = nearest_service(url, token, profile)
        self._http = Transport(
            service.url, service.token, timeout=timeout, patience=patience, on_wait=on_wait
        )
        self.accounts = Accounts(self._http)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def readiness(self) -> Health:
        """The parts that the service has checked; raises `ApiError` if it is not ready."""
        return self._http.read(Health, "GET", "/readyz")

    @property
    def url(self) -> str:
        """The URL of the service."""
        return self._http.url

    # -- jobs -----------------------------------------------------------------------------

    def submit(
        self,
        spec: JobSpec | Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        on_packed: Callable[[Packed], None] = lambda _: None,
        on_sent: Callable[[int, int], None] = lambda *_: None,
    ) -> JobView:
        """Submits a job and returns it.

        The files of its `workspace: {path: DIR}` are sent first, unless the service has them.
        `on_packed` is called with their number and size before that, and `on_sent` with the bytes
        sent and those of all. Raises `CannotSendError` for files that cannot be sent.

        The same `idempotency_key` returns the first job again. Without one, the client generates a
        key, so that a retry after a lost answer does not submit a second job.
        """
        body = spec.model_dump(mode="json") if isinstance(spec, JobSpec) else dict(spec)
        if (source := source_of(body)) is not None:
            body["workspace"] = send_workspace(
                self._http, source, on_packed=on_packed, on_sent=on_sent
            )
        headers = {IDEMPOTENCY_KEY: idempotency_key or secrets.token_hex(16)}
        return self._http.read(JobView, "POST", "/v1/jobs", json=body, headers=headers)

    def plan(self, spec: JobSpec | Mapping[str, Any]) -> JobPlan:
        """What would become of a job that was submitted now; nothing is kept of it.

        The files of `workspace: {path: DIR}` are neither sent nor looked at.
        """
        body = spec.model_dump(mode="json") if isinstance(spec, JobSpec) else dict(spec)
        if source_of(body) is not None:
            body["workspace"] = UNPACKED
        return self._http.read(JobPlan, "POST", "/v1/jobs/plan", json=body)

    def fork(
        self,
        job_id: str,
        step: int | None = None,
        *,
        changes: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> JobView:
        """A new job that goes on from a checkpoint of another one.

        `step`: that of the checkpoint; None: the newest. `changes`: keys of the specification by
        their path, `{"train.optimizer.lr": 3e-4}`. `name`: by default that of the job.
        """
        body = {"step": step, "set": dict(changes or {}), "name": name}
        headers = {IDEMPOTENCY_KEY: secrets.token_hex(16)}
        return self._http.read(JobView, "POST", _path(job_id, "fork"), json=body, headers=headers)

    def get(self, job_id: str) -> JobView:
        """The job with its attempts, progress and position in the queue."""
        return self._http.read(JobView, "GET", _path(job_id))

    def list(
        self,
        *,
        state: State | str | None = None,
        labels: Mapping[str, str] | None = None,
        pool: str | None = None,
        name: str | None = None,
        owner: str | None = None,
        forked_from: str | None = None,
        limit: int | None = 50,
    ) -> Iterator[Job]:
        """Jobs, newest first, at most `limit` (None: all); reads page by page."""
        parameters: dict[str, Any] = {
            "state": state, "pool": pool, "name": name, "owner": owner, "forked_from": forked_from,
        }  # fmt: skip
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
        """Cancels the job; a running one saves a checkpoint first."""
        return self._act(job_id, "cancel")

    def preempt(self, job_id: str) -> JobView:
        """Preempts a running job; it is requeued."""
        return self._act(job_id, "preempt")

    def pause(self, job_id: str) -> JobView:
        """Pauses a job; a running one saves a checkpoint first."""
        return self._act(job_id, "pause")

    def resume(self, job_id: str) -> JobView:
        """Requeues a paused job."""
        return self._act(job_id, "resume")

    def retry(self, job_id: str) -> JobView:
        """Requeues a failed or cancelled job; it resumes from its latest checkpoint."""
        return self._act(job_id, "retry")

    def change(self, job_id: str, **changes: Any) -> JobView:
        """Changes `priority`, `labels`, `limits` or `preemptible` of a job that has not ended.

        Fields that are not given stay unchanged; None removes a limit or a label.
        """
        return self._http.read(JobView, "PATCH", _path(job_id), json=changes)

    def record_proof(self, job_id: str, verdict: Verdict) -> JobView:
        """Records what a drill found of the job; the last verdict counts."""
        body = verdict.model_dump(mode="json")
        return self._http.read(JobView, "PUT", _path(job_id, "proof"), json=body)

    def delete(self, job_id: str, *, files: bool = False) -> None:
        """Deletes a job in a final state; with `files`, also the files of its run."""
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

    def events(self, job_id: str, after: str | None = None) -> Iterator[Event]:
        """The events of the job so far, oldest first; those after the event with the id `after`."""
        path = _path(job_id, "events")
        while True:
            page = self._http.read(EventPage, "GET", path, {"after": after})
            if not page.events:
                return
            yield from page.events
            after = page.after

    def all_events(self, after: str | None = None, *, limit: int = 200) -> EventFeed:
        """The newest events of all jobs, or those after one; `after` of the answer goes on."""
        return self._http.read(EventFeed, "GET", "/v1/events", {"after": after, "limit": limit})

    def metrics(self, job_id: str, *, after_step: int = -1) -> Metrics:
        """The rows of the run's metrics with a step after `after_step`, so far.

        Iterate over them, or take `arrays()` or the `frame()` of pandas.
        """
        return Metrics(lambda: metric_rows(self._http, _path(job_id, "metrics"), after_step))

    def series(
        self,
        job_id: str,
        keys: Sequence[str] = (),
        *,
        x: str = "step",
        between: tuple[float | None, float | None] = (None, None),
        points: int = 2000,
        cursor: str | None = None,
        superseded: bool = False,
    ) -> SeriesPage:
        """The curves of the metrics `keys`, each in at most `points` buckets, and all names.

        `x` is `step`, `time` (seconds since the first row) or `tokens`. With the `cursor` of an
        earlier answer, the rows that have followed; or the whole curves, if the answer says
        `restarted`. `superseded`: also those of the rows that a later attempt computed again.
        """
        start, end = between
        query = {"keys": list(keys), "x": x, "from": start, "to": end, "points": points,
                 "cursor": cursor, "superseded": superseded}  # fmt: skip
        return self._http.read(SeriesPage, "GET", _path(job_id, "series"), query)

    def logs(
        self,
        job_id: str,
        *,
        attempt: int | None = None,
        rank: int | None = None,
        tail: int | None = None,
        since: float | None = None,
        follow: bool = False,
        poll: float = 0.5,
    ) -> Iterator[str]:
        """The output of the training process, in chunks; with `follow`, until the job ends.

        With `attempt` or `rank`, only the lines of those; with `tail`, only the last so many of
        those that there are now; with `since`, only what came after that time, seconds since the
        epoch.
        """
        first = {"tail": tail, "since": since, "attempt": None if tail is None else attempt}
        return log_pieces(
            self._http, _path(job_id, "logs"), first,
            attempt=attempt, rank=rank, follow=follow, poll=poll,
        )  # fmt: skip

    def search_log(
        self,
        job_id: str,
        text: str,
        *,
        attempt: int | None = None,
        rank: int | None = None,
        since: float | None = None,
        context: int = 2,
    ) -> Iterator[LogMatch]:
        """The lines of the output that have a text, in upper or lower case, with some around."""
        query = {"search": text, "attempt": attempt, "rank": rank, "since": since,
                 "context": context}  # fmt: skip
        return log_matches(self._http, _path(job_id, "logs"), query)

    def diff(self, job_id: str, other: str) -> JobDiff:
        """What differs between two jobs: specification, code, environment and curves."""
        return self._http.read(JobDiff, "GET", _path(job_id, "diff", quote(other, safe="")))

    def compare(self, *job_ids: str) -> Comparison:
        """What differs between jobs, 2 to 20, and what each has come to."""
        return self._http.read(Comparison, "GET", "/v1/compare", {"job": job_ids})

    def artifacts(self, job_id: str) -> Sequence[Artifact]:
        """The files of the run."""
        return self._listing(job_id).artifacts

    def fetch(
        self,
        job_id: str,
        directory: Path,
        *,
        wanted: Callable[[str], bool] = lambda _: True,
        on_progress: Callable[[int, int], None] = lambda *_: None,
    ) -> Sequence[Path]:
        """Downloads the files of the run whose names are `wanted`; returns their paths.

        Each file appears below `directory` complete or not at all. A file that exists with the
        size and modification time that the service lists is not downloaded again, and an
        interrupted download goes on where it stopped. `on_progress` is called with the bytes that
        have come and those of all new files. The run's links are made anew, but for those that
        lead out of it.
        """
        listing = self._listing(job_id)
        fetching = Fetching(self._http, job_id, directory, on_progress)
        files = fetching.fetch([file for file in listing.artifacts if wanted(file.path)])
        return files + fetching.link([link for link in listing.links if wanted(link.path)])

    def download(self, job_id: str, path: str, directory: Path = Path()) -> Path:
        """Downloads one file of the run, as `fetch` does; the path of the local file.

        Raises `FileNotFoundError` if the run has no such file.
        """
        for found in self.fetch(job_id, directory, wanted=lambda name: name == path):
            return found
        raise FileNotFoundError(f"The run of job {job_id} has no file {path!r}.")

    def fetch_archive(self, job_id: str, target: Path, *, prefix: str = "") -> Path:
        """Downloads the files of the run whose paths begin with `prefix` as a zip archive.

        The archive appears at `target` complete or not at all.
        """
        path = f"{_path(job_id, 'artifacts.zip')}?prefix={quote(prefix, safe='')}"
        return save_whole(self._http, path, target)

    # -- workers --------------------------------------------------------------------------

    def workers(self) -> Sequence[Worker]:
        """The workers, with the state and job of each."""
        return self._http.read(WorkerList, "GET", "/v1/workers").workers

    def drain(self, name: str) -> Worker:
        """Drains a worker: it finishes its job and takes no other."""
        return self._http.read(Worker, "POST", f"/v1/workers/{quote(name, safe='')}/drain")

    def undrain(self, name: str) -> Worker:
        """Lets a drained worker take jobs again."""
        return self._http.read(Worker, "POST", f"/v1/workers/{quote(name, safe='')}/undrain")

    def pools(self) -> Sequence[Pool]:
        """The pools, with their workers by state and their jobs."""
        return self._http.read(PoolList, "GET", "/v1/pools").pools

    def pool(self, name: str) -> Pool:
        """The pool of that name; one that nobody has heard of is empty."""
        return self._http.read(Pool, "GET", f"/v1/pools/{quote(name, safe='')}")

    # -- helpers --------------------------------------------------------------------------

    def _act(self, job_id: str, action: str) -> JobView:
        return self._http.read(JobView, "POST", _path(job_id, action))

    def _listing(self, job_id: str) -> ArtifactList:
        return self._http.read(ArtifactList, "GET", _path(job_id, "artifacts"))


def _path(job_id: str, *parts: str) -> str:
    return "/".join(["/v1/jobs", quote(job_id, safe=""), *parts])
