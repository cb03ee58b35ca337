"""Pages of jobs, newest first."""

from __future__ import annotations

from itertools import islice

from api.schemas import JobPage, JobQuery
from jobs.model.record import Job
from jobs.store.jobs import JobStore

# Limits the jobs that one request reads when a filter matches hardly any.
MAX_SCANNED = 2000


def page_of(store: JobStore, query: JobQuery) -> JobPage:
    """The jobs that match `query`, and the cursor of the next page.

    The cursor is the sequence number of the last job read. It is a place in the order of
    submission, so jobs that are added, deleted or changed meanwhile neither shift nor repeat a
    page.
    """
    before = int(query.cursor) if query.cursor else None
    jobs = store.newest(state=query.state, before=before)
    found: list[Job] = []
    last: Job | None = None
    for last in islice(jobs, MAX_SCANNED):
        if matches(last, query):
            found.append(last)
        if len(found) == query.limit:
            break
    more = last is not None and next(jobs, None) is not None
    return JobPage(jobs=found, cursor=str(last.sequence) if last and more else None)


def matches(job: Job, query: JobQuery) -> bool:
    """Whether the job matches the query, apart from its state."""
    labels = (label.split(":", 1) for label in query.label)
    return (
        query.pool in {None, job.spec.resources.pool}
        and query.name in {None, job.spec.name}
        and query.owner in {None, job.owner}
        and all(job.spec.labels.get(key) == value for key, value in labels)
    )
