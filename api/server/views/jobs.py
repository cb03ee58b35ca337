"""The calls on jobs: submit, list, show, request, change, delete."""

from __future__ import annotations

from flask import Response, url_for

from api.schemas import (
    IDEMPOTENCY_KEY,
    DeleteQuery,
    JobPage,
    JobPlan,
    JobQuery,
    JobView,
)
from api.server.access.guard import this_caller
from api.server.context import context
from api.server.problems import problem
from api.server.routes import Routes, answered_once, as_json
from api.server.views.job_view import view_of
from api.server.views.submitting import IDEMPOTENCY_HEADER, check_submission, idempotency_key
from jobs.errors import JobNotFoundError
from jobs.model.change import JobChange
from jobs.model.record import Verdict
from jobs.model.spec import JobSpec
from jobs.model.states import Request

routes = Routes("jobs")


@routes.call(
    "POST",
    "/v1/jobs",
    answer=JobView,
    status=201,
    problems=(409,),
    request_headers=IDEMPOTENCY_HEADER,
    response_headers={"Location": "URL of the job."},
)
def submit_job(body: JobSpec) -> Response:
    """Submit a job."""
    key = idempotency_key()
    check_submission(body)
    try:
        job = context().store.submit(body, idempotency_key=key, owner=this_caller().name)
    except JobNotFoundError as error:
        detail = f"{IDEMPOTENCY_KEY} {key!r} was used for job {error.job_id}, since deleted."
        return problem(409, detail)
    context().announce(job)
    location = url_for("jobs.get_job", job_id=job.id)
    return as_json(view_of(job), 201, {"Location": location})


@routes.call("POST", "/v1/jobs/plan", answer=JobPlan)
def plan_job(body: JobSpec) -> JobPlan:
    """Check a specification, and say what would become of the job; nothing is submitted.

    The code and the data that it names are not looked for.
    """
    plan = context().forecast.plan(body, this_caller().name)
    return JobPlan(
        position=plan.position,
        seconds=plan.waiting.seconds,
        evicts=plan.evicts,
        workers=plan.workers,
        reason=plan.waiting.reason,
    )


@routes.call("GET", "/v1/jobs", answer=JobPage)
def list_jobs(query: JobQuery) -> Response:
    """List jobs, newest first.

    A page starts where the previous one ended, also when jobs were submitted in between. Messages
    are cut to 500 characters, and attempts have no `log_tail`: the job itself has both.
    """
    page = context().listing.page(query)
    return answered_once(page.body, page.etag)


@routes.call("GET", "/v1/jobs/<job_id:job_id>", answer=JobView)
def get_job(job_id: str) -> JobView:
    """Show a job: its record, attempts, progress and place in the queue."""
    return view_of(context().store.get(job_id))


@routes.call("POST", "/v1/jobs/<job_id:job_id>/cancel", answer=JobView, status=202, problems=(409,))
def cancel_job(job_id: str) -> JobView:
    """Cancel a job; a running one is stopped first."""
    return view_of(context().store.request(job_id, Request.CANCEL))


@routes.call(
    "POST", "/v1/jobs/<job_id:job_id>/preempt", answer=JobView, status=202, problems=(409,)
)
def preempt_job(job_id: str) -> JobView:
    """Preempt a running job: it saves a checkpoint and returns to the queue."""
    return view_of(context().store.request(job_id, Request.PREEMPT))


@routes.call("POST", "/v1/jobs/<job_id:job_id>/pause", answer=JobView, status=202, problems=(409,))
def pause_job(job_id: str) -> JobView:
    """Pause a running job: it saves a checkpoint and stops until it is resumed."""
    return view_of(context().store.request(job_id, Request.PAUSE))


@routes.call("POST", "/v1/jobs/<job_id:job_id>/resume", answer=JobView, status=202, problems=(409,))
def resume_job(job_id: str) -> JobView:
    """Resume a paused job; one that is still stopping returns to the queue once it has."""
    job = context().store.resume(job_id)
    context().announce(job)
    return view_of(job)


@routes.call("POST", "/v1/jobs/<job_id:job_id>/retry", answer=JobView, status=202, problems=(409,))
def retry_job(job_id: str) -> JobView:
    """Retry a failed or cancelled job; it resumes from its latest checkpoint."""
    job = context().store.retry(job_id)
    context().announce(job)
    return view_of(job)


@routes.call("PATCH", "/v1/jobs/<job_id:job_id>", answer=JobView, problems=(409,))
def change_job(job_id: str, body: JobChange) -> JobView:
    """Change priority, labels, limits or preemptibility of a job that has not ended.

    A field that is left out stays as it is; null removes a limit or a label.
    """
    return view_of(context().store.change(job_id, body))


@routes.call("PUT", "/v1/jobs/<job_id:job_id>/proof", answer=JobView)
def record_proof(job_id: str, body: Verdict) -> JobView:
    """Record what a drill found of a job, as `spectrain drill` does; the last verdict counts."""
    context().store.proofs.record(job_id, body)
    return view_of(context().store.get(job_id))


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
