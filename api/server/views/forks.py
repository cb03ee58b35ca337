"""The call that forks a job."""

from __future__ import annotations

from flask import Response, url_for

from api.schemas import IDEMPOTENCY_KEY, ForkRequest, JobView
from api.server.access.guard import this_caller
from api.server.context import context
from api.server.forks.files import ForkRefusedError, begin
from api.server.forks.specification import check_steps, forked_spec
from api.server.problems import InvalidInputError, problem
from api.server.routes import Routes, as_json
from api.server.views.job_view import view_of
from api.server.views.submitting import IDEMPOTENCY_HEADER, check_submission, idempotency_key
from jobs.errors import IdempotencyConflictError, JobNotFoundError
from jobs.model.record import Origin, new_job_id

routes = Routes("forks")


@routes.call(
    "POST",
    "/v1/jobs/<job_id:job_id>/fork",
    answer=JobView,
    status=201,
    problems=(409,),
    is_own=False,  # a user reads all jobs, and owns the new one
    request_headers=IDEMPOTENCY_HEADER,
    response_headers={"Location": "URL of the job."},
)
def fork_job(job_id: str, body: ForkRequest) -> Response:
    """Fork a job: submit a new one that begins from a checkpoint of its run.

    The rows of metrics up to there belong to the new run as well, and so do the files of the
    program. It needs nothing of the other run afterwards. A program without checkpoints of the
    monitoring library begins with the files of the run as they are now.
    """
    store, storage = context().store, context().storage
    key, source = idempotency_key(), store.get(job_id)
    spec = forked_spec(source.spec, body, is_own=source.owner == this_caller().name)
    check_submission(spec)
    fork = new_job_id(spec.name)
    context().reserve(fork)
    try:
        step = begin(storage, job_id, fork, body.step)
        check_steps(spec, step)
        job = store.submit(
            spec,
            idempotency_key=key,
            owner=this_caller().name,
            job_id=fork,
            forked_from=Origin(job=job_id, step=step),
            asked=body.model_dump_json(),
        )
    except ForkRefusedError as error:
        storage.delete_run(fork)
        return problem(409, str(error))
    except (IdempotencyConflictError, InvalidInputError):
        storage.delete_run(fork)
        raise
    except JobNotFoundError as error:
        storage.delete_run(fork)
        detail = f"{IDEMPOTENCY_KEY} {key!r} was used for job {error.job_id}, since deleted."
        return problem(409, detail)
    if job.id != fork:  # the key was used before, for this fork
        storage.delete_run(fork)
    context().back_up(job.id)
    context().announce(job)
    location = url_for("jobs.get_job", job_id=job.id)
    return as_json(view_of(job), 201, {"Location": location})
