"""Pages of jobs, newest first, made once for all who ask for the same."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import Any

from api.schemas import JobQuery
from jobs.model.record import Job
from jobs.store.jobs import JobStore
from jobs.store.recent import Filter, RecentJobs

# How many jobs Redis looks at for one request whose filter matches hardly any, and in one go. How
# many of them are read: Redis does not see all that a filter asks for.
MAX_SCANNED, _AT_ONCE, _MOST_READ = 20_000, 200, 2000
# Of a message, which may be a whole traceback; the job itself has all of it.
MESSAGE_CHARS = 500
_PLAIN = re.compile(r"[a-zA-Z0-9_.-]+")
# Progress is no event, so a page is good for so long.
_GOOD_SECONDS = 1.0
_MOST_PAGES, _MOST_TEXTS = 64, 2000


@dataclass(frozen=True)
class Page:
    """An answer, as JSON, and its ETag."""

    body: bytes
    etag: str


@dataclass(frozen=True)
class _Kept:
    page: Page
    event: str  # the newest one of the service when the page was made
    at: float  # time.monotonic


class Listing:
    """The pages of one store.

    A page is made again after any event of the service, and once a second: then a change shows at
    once, and two hundred pages that poll the same cost as one.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._recent = RecentJobs(store)
        self._lock = threading.Lock()
        self._pages: OrderedDict[str, _Kept] = OrderedDict()
        self._texts: OrderedDict[str, tuple[Job, bytes]] = OrderedDict()

    def page(self, query: JobQuery) -> Page:
        """The jobs that match `query`, and the cursor of the next page.

        The cursor is the sequence number of the last job read. It is a place in the order of
        submission, so jobs that are added, deleted or changed meanwhile neither shift nor repeat a
        page. Raises one of `jobs.errors.STORE_AWAY`.
        """
        key, event = query.model_dump_json(), self._store.last_event()
        known = self._pages.get(key)
        if known and known.event == event and time.monotonic() - known.at < _GOOD_SECONDS:
            return known.page
        at = time.monotonic()
        body = self._body(query)
        page = Page(body, hashlib.blake2b(body, digest_size=12).hexdigest())
        self._keep(self._pages, key, _Kept(page, event, at), _MOST_PAGES)
        return page

    def _body(self, query: JobQuery) -> bytes:
        before = int(query.cursor) if query.cursor else None
        found, cursor = (
            self._filtered(query, before) if _has_filter(query) else self._newest(query, before)
        )
        texts = b",".join(map(self._text, found))
        return b'{"jobs":[%s],"cursor":%s}' % (texts, b'"%d"' % cursor if cursor else b"null")

    def _newest(self, query: JobQuery, before: int | None) -> tuple[list[Job], int | None]:
        """The jobs of a page, and its cursor."""
        at_once = min(query.limit + 1, 200)
        jobs = self._recent.newest(state=query.state, before=before, at_once=at_once)
        found = list(islice(jobs, query.limit))
        more = next(jobs, None) is not None
        return found, found[-1].sequence if more else None

    def _filtered(self, query: JobQuery, before: int | None) -> tuple[list[Job], int | None]:
        """The same for a query that few jobs may match."""
        found: list[Job] = []
        wanted, read, looked = _filter_of(query), 0, 0
        while looked < MAX_SCANNED and read < _MOST_READ:
            jobs, before = self._recent.candidates(
                wanted, state=query.state, before=before, most=_AT_ONCE
            )
            looked, read = looked + _AT_ONCE, read + len(jobs)
            found += (job for job in jobs if matches(job, query))
            if len(found) >= query.limit:
                more = before is not None or len(found) > query.limit
                return found[: query.limit], found[query.limit - 1].sequence if more else None
            if before is None:
                break
        return found, before

    def _text(self, job: Job) -> bytes:
        known = self._texts.get(job.id)
        if known is not None and known[0] is job:
            return known[1]
        text = _shortened(job).model_dump_json().encode()
        self._keep(self._texts, job.id, (job, text), _MOST_TEXTS)
        return text

    def _keep(self, kept: OrderedDict[str, Any], key: str, value: Any, most: int) -> None:
        with self._lock:
            kept[key] = value
            kept.move_to_end(key)
            while len(kept) > most:
                kept.popitem(last=False)


def matches(job: Job, query: JobQuery) -> bool:
    """Whether the job matches the query, apart from its state."""
    labels = (label.split(":", 1) for label in query.label)
    return (
        query.pool in {None, job.spec.resources.pool}
        and query.name in {None, job.spec.name}
        and query.owner in {None, job.owner}
        and query.forked_from in {None, job.forked_from.job if job.forked_from else None}
        and all(job.spec.labels.get(key) == value for key, value in labels)
    )


def _filter_of(query: JobQuery) -> Filter:
    """What Redis looks for: strings that JSON writes as they are, in whatever way it is written."""
    labels = (label.split(":", 1) for label in query.label)
    strings = [("name", query.name), *labels] if query.name else [*labels]
    return Filter(
        pool=query.pool or "",
        owner=query.owner or "",
        forked_from=query.forked_from or "",
        strings={
            key: value if value and _PLAIN.fullmatch(value) else ""
            for key, value in strings
            if _PLAIN.fullmatch(key)
        },
    )


def _has_filter(query: JobQuery) -> bool:
    return bool(query.label) or any((query.pool, query.name, query.owner, query.forked_from))


def _shortened(job: Job) -> Job:
    """The job without what is long: the ends of logs, and long messages."""
    attempts = [
        attempt.model_copy(update={"message": _cut(attempt.message), "log_tail": []})
        for attempt in job.attempts
    ]
    return job.model_copy(update={"message": _cut(job.message), "attempts": attempts})


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_CHARS else f"{text[: MESSAGE_CHARS - 1]}…"
