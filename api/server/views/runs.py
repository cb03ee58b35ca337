"""The calls on the run of a job: events, log, metrics, files."""

from __future__ import annotations

import contextlib
import mimetypes
import re
from http import HTTPStatus
from pathlib import Path
from typing import IO, cast

from flask import Response, request, send_file
from redis.exceptions import RedisError
from werkzeug.exceptions import NotFound
from werkzeug.wsgi import wrap_file

from api.schemas import (
    JOB_STATE,
    NEXT_OFFSET,
    Artifact,
    ArtifactLink,
    ArtifactList,
    EventPage,
    EventQuery,
    LogQuery,
    MetricsPage,
    MetricsQuery,
)
from api.server.context import context
from api.server.files.part import Part
from api.server.files.stored_file import send_stored
from api.server.metric_pages import page_of
from api.server.routes import Routes
from jobs.model.states import State
from monitoring.paths import RunPaths
from monitoring.storage.base import is_service
from monitoring.storage.run_files import RunFiles

routes = Routes("runs")

_URL_SECONDS = 900
# What a browser shows and never executes; all else it saves.
_SHOWN = {
    "application/json", "image/gif", "image/jpeg", "image/png", "image/webp", "text/csv",
    "text/plain",
}  # fmt: skip

_NAME = re.compile(rb"(?!\.{1,2}\Z)[^/\0]{1,255}")


@routes.call("GET", "/v1/jobs/<job_id:job_id>/events", answer=EventPage)
def get_events(job_id: str, query: EventQuery) -> EventPage:
    """Read the events of a job, oldest first."""
    store = context().store
    store.get(job_id)
    events = store.events(job_id, after=query.after or "-", limit=query.limit)
    return EventPage(events=events, after=events[-1].id if events else query.after)


@routes.call(
    "GET",
    "/v1/jobs/<job_id:job_id>/logs",
    answer="text/plain",
    response_headers={
        NEXT_OFFSET: "Offset of the byte after the last one in the answer.",
        JOB_STATE: "State of the job: a final state with an empty body is the end of the log.",
    },
)
def get_log(job_id: str, query: LogQuery) -> Response:
    """Read the output of the training process from an offset on; poll to follow it."""
    # The state before the log: the log of a job in a final state is complete.
    state = context().store.get(job_id).state
    _follow(job_id, state)
    key = RunPaths(Path(job_id)).output_log.as_posix()
    file = context().storage.stat(key)
    # A resumed attempt may have cut the log: an offset beyond its end means its end.
    start = min(query.offset, file.size) if file else 0
    text = context().storage.read(key, start, query.limit) if file else b""
    headers = {NEXT_OFFSET: str(start + len(text)), JOB_STATE: str(state)}
    return Response(text, headers=headers, content_type="text/plain; charset=utf-8")


@routes.call("GET", "/v1/jobs/<job_id:job_id>/metrics", answer=MetricsPage)
def get_metrics(job_id: str, query: MetricsQuery) -> MetricsPage:
    """Read the metrics of a run, in the order in which they were logged.

    An attempt that resumes removes the rows after its checkpoint and logs those steps again. A
    cursor from before then continues with the rows of later steps.
    """
    _follow(job_id, context().store.get(job_id).state)
    return page_of(context().storage, job_id, query)


@routes.call("GET", "/v1/jobs/<job_id:job_id>/artifacts", answer=ArtifactList)
def list_artifacts(job_id: str) -> ArtifactList:
    """List the files of a run, and its symbolic links."""
    context().store.get(job_id)
    files = RunFiles(context().storage, job_id)
    return ArtifactList(
        artifacts=[
            Artifact(path=path, size=file.size, modified=file.modified)
            for path, file in files.all().items()
        ],
        links=[ArtifactLink(path=path, target=target) for path, target in files.links().items()],
    )


@routes.call(
    "GET",
    "/v1/jobs/<job_id:job_id>/artifacts/<path:path>",
    answer="application/octet-stream",
    problems=(416,),
)
def get_artifact(job_id: str, path: str) -> Response:
    """Fetch a file of a run, or a range of it.

    Where runs lie in an object store, the answer is a redirect (302) to a URL of the store, which
    needs no token and expires after 15 minutes. `SPECTRAIN_S3_REDIRECT=false` turns that off.
    """
    context().store.get(job_id)
    names = path.encode(errors="replace").split(b"/")
    if not all(map(_NAME.fullmatch, names)) or is_service(f"{job_id}/{path}"):
        raise _no_file(job_id, path)
    key = RunFiles(context().storage, job_id).key(path)
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    if context().storage.local_path(job_id) is not None:
        file = _file(job_id, key, path)
        answer = send_file(file, mimetype=kind, conditional=True, etag=True, max_age=0)
        if answer.status_code == HTTPStatus.PARTIAL_CONTENT:
            _read_by_the_server(answer, file)
    elif context().settings.s3_redirect:
        headers = {"Location": _url(job_id, key, path), "Cache-Control": "no-store"}
        return Response(status=302, headers=headers)
    else:
        try:
            answer = send_stored(context().storage, key, kind)
        except FileNotFoundError:
            raise _no_file(job_id, path) from None
    # A browser must not run a page that a job wrote as if it were a page of the service.
    if kind not in _SHOWN:
        answer.headers["Content-Disposition"] = "attachment"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    return answer


def _read_by_the_server(answer: Response, file: Path) -> None:
    """Leaves a range of a file to the server, as Flask leaves whole files.

    It sends them without a thread, however slowly the client reads.
    """
    answer.close()  # its reader reads in this thread
    part = Part(file, answer.content_range.start or 0, answer.content_length or 0)
    answer.response = wrap_file(request.environ, cast("IO[bytes]", part))
    answer.direct_passthrough = True


def _url(job_id: str, key: str, path: str) -> str:
    """The URL at which an object store serves the file; raises `NotFound`."""
    try:
        url = context().storage.presign(key, _URL_SECONDS)
    except FileNotFoundError:
        raise _no_file(job_id, path) from None
    if url is None:
        raise _no_file(job_id, path)
    return url


def _file(job_id: str, key: str, path: str) -> Path:
    """The file of a key; raises `NotFound` for `path`.

    Links that a training program made are followed within its run only.
    """
    storage = context().storage
    root, file = storage.local_path(job_id), storage.local_path(key)
    inside = root and file and file.resolve().is_relative_to(root.resolve())
    if file and inside and file.is_file():
        return file
    raise _no_file(job_id, path)


def _no_file(job_id: str, path: str) -> NotFound:
    return NotFound(f"The run of job {job_id} has no file {path!r}.")


def _follow(job_id: str, state: State) -> None:
    """Makes the worker of a running job send new lines and rows more often."""
    if state is State.RUNNING:
        with contextlib.suppress(RedisError):  # one that takes no writes can still be read
            context().store.follow(job_id)
