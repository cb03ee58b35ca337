"""The calls on jobs: submit, list, show, request, change, delete."""

from __future__ import annotations

import time

from flask import Response, request, url_for

from api.schemas import IDEMPOTENCY_KEY, DeleteQuery, FieldError, JobPage, JobQuery, JobView
from api.server.access.guard import this_caller
from api.server.context import context
from api.server.files.receiving import Receiving
from api.server.listing import page_of
from api.server.problems import InvalidInputError, problem
from api.server.routes import Routes, as_json
from jobs.errors import JobNotFoundError
from jobs.model.change import JobChange
from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import Request
from jobs.model.workspace import Workspace

routes = Routes("jobs")


@routes.call(
    "POST",
    "/v1/jobs",
    answer=JobView,
    status=201,
    problems=(409,),
    request_headers={
        IDEMPOTENCY_KEY: "Any text of 1 to 255 printable ASCII characters. A second call with the "
        "same key within a week returns the job of the first."
    },
    response_headers={"Location": "URL of the job."},
)
def submit_job(body: JobSpec) -> Response:
    """Submit a job."""
    key = _idempotency_key()
    if body.workspace is not None:
        _check_workspace(body.workspace)
    _check_gpus(body)
    try:
        job = context().store.submit(body, idempotency_key=key, owner=this_caller().name)
    except JobNotFoundError as error:
        detail = f"{IDEMPOTENCY_KEY} {key!r} was used for job {error.job_id}, since deleted."
        return problem(409, detail)
    context().announce(job)
    location = url_for("jobs.get_job", job_id=job.id)
    return as_json(_view(job), 201, {"Location": location})


@routes.call("GET", "/v1/jobs", answer=JobPage)
def list_jobs(query: JobQuery) -> JobPage:
    """List jobs, newest first.

    A page starts where the previous one ended, also when jobs were submitted in between.
    """
    return page_of(context().store, query)


@routes.call("GET", "/v1/jobs/<job_id:job_id>", answer=JobView)
def get_job(job_id: str) -> JobView:
    """Show a job: its record, attempts, progress and place in the queue."""
    return _view(context().store.get(job_id))


@routes.call("POST", "/v1/jobs/<job_id:job_id>/cancel", answer=JobView, status=202, problems=(409,))
def cancel_job(job_id: str) -> JobView:
    """Cancel a job; a running one is stopped first."""
    return _view(context().store.request(job_id, Request.CANCEL))


@routes.call(
    "POST", "/v1/jobs/<job_id:job_id>/preempt", answer=JobView, status=202, problems=(409,)
)
def preempt_job(job_id: str) -> JobView:
    """Preempt a running job: it saves a checkpoint and returns to the queue."""
    return _view(context().store.request(job_id, Request.PREEMPT))


@routes.call("POST", "/v1/jobs/<job_id:job_id>/pause", answer=JobView, status=202, problems=(409,))
def pause_job(job_id: str) -> JobView:
    """Pause a running job: it saves a checkpoint and stops until it is resumed."""
    return _view(context().store.request(job_id, Request.PAUSE))


@routes.call("POST", "/v1/jobs/<job_id:job_id>/resume", answer=JobView, status=202, problems=(409,))
def resume_job(job_id: str) -> JobView:
    """Resume a paused job; one that is still stopping returns to the queue once it has."""
    job = context().store.resume(job_id)
    context().announce(job)
    return _view(job)


@routes.call("POST", "/v1/jobs/<job_id:job_id>/retry", answer=JobView, status=202, problems=(409,))
def retry_job(job_id: str) -> JobView:
    """Retry a failed or cancelled job; it resumes from its latest checkpoint."""
    job = context().store.retry(job_id)
    context().announce(job)
    return _view(job)


@routes.call("PATCH", "/v1/jobs/<job_id:job_id>", answer=JobView, problems=(409,))
def change_job(job_id: str, body: JobChange) -> JobView:
    """Change priority, labels, limits or preemptibility of a job that has not ended.

    A field that is left out stays as it is; null removes a limit or a label.
    """
    return _view(context().store.change(job_id, body))


@routes.call("DELETE", "/v1/jobs/<job_id:job_id>", answer=None, status=204, problems=(409,))
def delete_job(job_id: str, query: DeleteQuery) -> Response:
    """Delete a job in a final state; with `files=true` the files of its run as well."""
    store = context().store
    store.mark_deleted(job_id)  # from here on no attempt writes to the run
    # Files first: after a crash in between, the same call completes the deletion.
    if query.files:
        context().storage.delete_run(job_id)
    else:
        context().record_deletion(job_id)
    store.delete(job_id)
    return Response(status=204)


def _view(job: Job) -> JobView:
    place = context().store.queues.place(job)
    files = f"{context().settings.storage_url.rstrip('/')}/{job.id}"
    goodput = job.goodput_at(time.time())
    return JobView.model_construct(
        **dict(job),
        queue_position=place.ahead if place else None,
        held=(place.held or None) if place else None,
        goodput=goodput,
        files=files,
    )


def _check_gpus(spec: JobSpec) -> None:
    """Raises `InvalidInputError` for a job that its owner's limit would hold for good."""
    most, asked = context().tokens.gpus_of(this_caller().name), spec.resources.gpus
    if most is not None and asked > most:
        allowed = f"at most {most}, the limit of {this_caller().name}"
        raise InvalidInputError(
            [FieldError(field="resources.gpus", given=str(asked), allowed=allowed)]
        )


def _check_workspace(workspace: Workspace) -> None:
    """Raises `InvalidInputError` for one that storage does not have."""
    receiving = Receiving(context().storage, workspace.sha256)
    if not receiving.is_whole:
        raise InvalidInputError(
            [
                FieldError(
                    field="workspace.sha256",
                    given=f'"{workspace.sha256}"',
                    allowed="an archive that the service has: send it first, by "
                    f"PUT /v1/workspaces/{workspace.sha256}",
                )
            ]
        )
    receiving.note_use()


def _idempotency_key() -> str | None:
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        allowed = "1 to 255 printable ASCII characters"
        given = f"{len(key)} characters"
        raise InvalidInputError([FieldError(field=IDEMPOTENCY_KEY, given=given, allowed=allowed)])
    return key
