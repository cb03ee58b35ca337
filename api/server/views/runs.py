"""The calls on the run of a job: events, log, metrics, files."""

from __future__ import annotations

import contextlib
import errno
import mimetypes
import re
from pathlib import Path
from urllib.parse import quote

from flask import Response, request, send_file
from redis.exceptions import RedisError
from werkzeug.exceptions import NotFound

from api.schemas import (
    JOB_STATE,
    NEXT_OFFSET,
    ArchiveQuery,
    Artifact,
    ArtifactLink,
    ArtifactList,
    ArtifactQuery,
    CompareQuery,
    Comparison,
    EventFeed,
    EventPage,
    EventQuery,
    FeedQuery,
    JobDiff,
    LogMatches,
    LogQuery,
    MetricsPage,
    MetricsQuery,
    SeriesPage,
    SeriesQuery,
)
from api.server.context import context
from api.server.curves.answer import answer as curves_of
from api.server.curves.comparison import comparison_of
from api.server.curves.differences import diff_of
from api.server.files.stored_file import send_stored
from api.server.files.zip_stream import inside, zip_of
from api.server.routes import Routes, as_json
from api.server.runs.log import Log
from api.server.runs.metric_pages import page_of
from jobs.model.states import State
from monitoring.paths import RunPaths
from monitoring.storage.base import is_service
from monitoring.storage.run_files import RunFiles

routes = Routes("runs")

_URL_SECONDS = 900
_DATA = "application/octet-stream"
# What a browser shows and never executes; all else it saves, and is told nothing of its kind.
_SHOWN = {
    "application/json", "image/gif", "image/jpeg", "image/png", "image/webp", "text/csv",
    "text/plain",
}  # fmt: skip

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAME = re.compile(rb"(?!\.{1,2}\Z)[^/\0]{1,255}")


@routes.call("GET", "/v1/jobs/<job_id:job_id>/events", answer=EventPage)
def get_events(job_id: str, query: EventQuery) -> EventPage:
    """Read the events of a job, oldest first."""
    store = context().store
    store.get(job_id)
    events = store.events(job_id, after=query.after or "-", limit=query.limit)
    return EventPage(events=events, after=events[-1].id if events else query.after)


@routes.call("GET", "/v1/events", answer=EventFeed)
def list_events(query: FeedQuery) -> EventFeed:
    """Read the events of all jobs, oldest first: the newest ones, or those after a given one.

    The service keeps about 10,000. An event `deleted` is the last one of a job.
    """
    events = context().store.all_events(after=query.after, limit=query.limit)
    return EventFeed(events=events, after=events[-1].id if events else query.after)


@routes.call(
    "GET",
    "/v1/jobs/<job_id:job_id>/logs",
    answer="text/plain",
    also=LogMatches,
    response_headers={
        NEXT_OFFSET: "Offset of the byte after the last one in the answer.",
        JOB_STATE: "State of the job: a final state with an empty body is the end of the log.",
    },
)
def get_log(job_id: str, query: LogQuery) -> Response:
    """Read the output of the training process from an offset on; poll to follow it.

    Each line begins with the number of its attempt: `[1] `. With `attempt` or `rank` the answer
    ends with a whole line, and is empty at the end of the log only.
    """
    # The state before the log: the log of a job in a final state is complete.
    state = context().store.get(job_id).state
    _follow(job_id, state)
    paths = RunPaths(Path(job_id))
    log = Log(context().storage, paths.output_log.as_posix(), paths.output_times.as_posix())
    if query.search is not None:
        return as_json(log.search(query), headers={JOB_STATE: str(state)})
    text, end = log.read(query)
    headers = {NEXT_OFFSET: str(end), JOB_STATE: str(state)}
    return Response(text, headers=headers, content_type="text/plain; charset=utf-8")


@routes.call("GET", "/v1/jobs/<job_id:job_id>/metrics", answer=MetricsPage)
def get_metrics(job_id: str, query: MetricsQuery) -> MetricsPage:
    """Read the metrics of a run, in the order in which they were logged.

    An attempt that resumes removes the rows after its checkpoint and logs those steps again. A
    cursor from before then continues with the rows of later steps.
    """
    _follow(job_id, context().store.get(job_id).state)
    return page_of(context().storage, job_id, query)


@routes.call(
    "GET",
    "/v1/jobs/<job_id:job_id>/series",
    answer=SeriesPage,
    others=(304,),
    request_headers={"If-None-Match": "`ETag` of an earlier answer: 304 if nothing has changed."},
    response_headers={"ETag": "Names what the run has logged so far."},
)
def get_series(job_id: str, query: SeriesQuery) -> Response:
    """Read the curves of a run, each in at most `points` buckets.

    The service keeps an index of the curves in memory and reads only what is new. An attempt that
    resumes removes the rows after its checkpoint and logs those steps again: the next answer to a
    `cursor` has the whole curves then, and says so by `restarted`.
    """
    job = context().store.get(job_id)
    _follow(job_id, job.state)
    known = request.if_none_match.as_set(include_weak=True)
    found = curves_of(context().storage, context().curves, job_id, job.spec, query, known)
    response = Response(found.body, 304 if found.body is None else 200)
    response.content_type = "application/json"
    response.set_etag(found.etag)
    response.cache_control.no_cache = True
    return response


@routes.call("GET", "/v1/jobs/<job_id:job_id>/diff/<job_id:other>", answer=JobDiff)
def get_diff(job_id: str, other: str) -> JobDiff:
    """Compare two jobs: specification, code, environment and curves.

    Metrics are compared digit for digit at the steps that both have logged.
    """
    store = context().store
    return diff_of(context().storage, context().curves, store.get(job_id), store.get(other))


@routes.call("GET", "/v1/compare", answer=Comparison, problems=(404,))
def compare_jobs(query: CompareQuery) -> Comparison:
    """Compare several jobs: configuration, code, environment, results and curves."""
    store = context().store
    jobs = [store.get(job_id) for job_id in dict.fromkeys(query.job)]
    return comparison_of(context().storage, context().curves, jobs)


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
    answer="*/*",
    others=(206, 302, 304),
    problems=(416,),
    request_headers={
        "Range": "Which bytes to send: `bytes=0-999`.",
        "If-None-Match": "`ETag` of an earlier answer: 304 if the file is the same.",
    },
    response_headers={"ETag": "Names this content of the file."},
)
def get_artifact(job_id: str, path: str, query: ArtifactQuery) -> Response:
    """Fetch a file of a run, or a range of it.

    Where runs lie in an object store, the answer is a redirect (302) to a URL of the store, which
    needs no token and expires after 15 minutes. `SPECTRAIN_S3_REDIRECT=false` turns that off, for
    one call `redirect=false`.
    """
    context().store.get(job_id)
    names = path.encode(errors="replace").split(b"/")
    if not all(map(_NAME.fullmatch, names)) or is_service(f"{job_id}/{path}"):
        raise _no_file(job_id, path)
    key = RunFiles(context().storage, job_id).key(path)
    kind = mimetypes.guess_type(path)[0] or _DATA
    # A browser must not run what a job wrote as a page or a script of the service.
    if kind not in _SHOWN:
        kind = _DATA
    disposition = ""
    if query.download or kind == _DATA:
        name = quote(path.rpartition("/")[2], safe="")
        disposition = f"attachment; filename*=UTF-8''{name}"
    if context().storage.local_path(job_id) is not None:
        file = _file(job_id, key, path)
        answer = send_file(
            file, mimetype=kind, download_name=_CONTROL.sub("_", file.name), conditional=True,
            etag=True, max_age=0,
        )  # fmt: skip
    elif context().settings.s3_redirect and query.redirect:
        url = _url(job_id, key, path, disposition)
        headers = {"Location": url, "Cache-Control": "no-store"}
        return Response(status=302, headers=headers)
    else:
        try:
            answer = send_stored(context().storage, key, kind)
        except FileNotFoundError:
            raise _no_file(job_id, path) from None
    if disposition:
        answer.headers["Content-Disposition"] = disposition
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    return answer


@routes.call("GET", "/v1/jobs/<job_id:job_id>/artifacts.zip", answer="application/zip")
def get_archive(job_id: str, query: ArchiveQuery) -> Response:
    """Fetch the files of a run as one zip archive, without compression.

    Links are links, but for those that lead out of the run, which are left out. An archive that
    breaks off has met a fault of storage.
    """
    context().store.get(job_id)
    found, storage = RunFiles(context().storage, job_id), context().storage
    files = {p: file for p, file in found.all().items() if p.startswith(query.prefix)}
    links = {p: to for p, to in inside(found.links()).items() if p.startswith(query.prefix)}
    answer = Response(zip_of(storage, files, links), content_type="application/zip")
    answer.headers["Content-Disposition"] = f"attachment; filename={job_id}.zip"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.cache_control.no_store = True
    return answer


def _url(job_id: str, key: str, path: str, disposition: str) -> str:
    """The URL at which an object store serves the file; raises `NotFound`."""
    try:
        url = context().storage.presign(key, _URL_SECONDS, disposition=disposition)
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
    try:
        inside = root and file and file.resolve().is_relative_to(root.resolve())
        if file and inside and file.is_file():
            return file
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    raise _no_file(job_id, path)


def _no_file(job_id: str, path: str) -> NotFound:
    return NotFound(f"The run of job {job_id} has no file {path!r}.")


def _follow(job_id: str, state: State) -> None:
    """Makes the worker of a running job send new lines and rows more often."""
    if state is State.RUNNING:
        with contextlib.suppress(RedisError):  # one that takes no writes can still be read
            context().store.follow(job_id)
