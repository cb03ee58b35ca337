"""The output of a job, piece by piece."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator, Mapping

from api.client.transport import Transport
from api.schemas import JOB_STATE, NEXT_OFFSET, LogMatch, LogMatches
from jobs.model.states import State


def log_pieces(
    http: Transport,
    path: str,
    first: Mapping[str, object],
    *,
    attempt: int | None,
    rank: int | None,
    follow: bool,
    poll: float,
) -> Iterator[str]:
    """The pieces of a log, which `first` begins; with `follow`, until the job ends.

    The service chooses the lines of a rank, which are whole ones. Those of an attempt alone are
    chosen here, so that its last line is there while it has no end.
    """
    chosen = {} if rank is None else {"rank": rank, "attempt": attempt}
    pieces = _pieces(http, path, first, chosen, follow=follow, poll=poll)
    return pieces if attempt is None or chosen else _lines_of(attempt, pieces)


def log_matches(http: Transport, path: str, query: Mapping[str, object]) -> Iterator[LogMatch]:
    """The lines that a search finds, page by page."""
    offset = 0
    while True:
        page = http.read(LogMatches, "GET", path, {**query, "offset": offset})
        yield from page.matches
        if page.next_offset is None:
            return
        offset = page.next_offset


def _pieces(
    http: Transport,
    path: str,
    query: Mapping[str, object],
    chosen: Mapping[str, object],
    *,
    follow: bool,
    poll: float,
) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        answer = http.call("GET", path, {**query, **chosen})
        query = {"offset": int(answer.headers[NEXT_OFFSET])}
        if answer.content:
            yield decoder.decode(answer.content)
        elif not follow or State(answer.headers[JOB_STATE]).is_final:
            return
        else:
            time.sleep(poll)


def _lines_of(attempt: int, pieces: Iterator[str]) -> Iterator[str]:
    """The complete lines that belong to the attempt."""
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        yield from (f"{line}\n" for line in lines if line.startswith(f"[{attempt}] "))
    if rest.startswith(f"[{attempt}] "):
        yield rest
