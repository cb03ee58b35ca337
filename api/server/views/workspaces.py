"""The calls on workspaces: ask for one, and send one."""

from __future__ import annotations

import re

from flask import Response, request
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from api.schemas import NEXT_OFFSET, StoredWorkspace
from api.server.context import context
from api.server.files.receiving import Receiving, WrongHashError, WrongOffsetError
from api.server.problems import problem
from api.server.routes import Routes, as_json
from workspaces.layout import VARIABLE, archive_limit, bytes_text

routes = Routes("workspaces")

_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")


@routes.call(
    "GET",
    "/v1/workspaces/<sha256:sha256>",
    answer=StoredWorkspace,
    response_headers={NEXT_OFFSET: "Number of bytes that the service has."},
)
def get_workspace(sha256: str) -> Response:
    """Ask whether the service has the archive of a workspace.

    The answer 404 has the header too: where an upload that was interrupted goes on. `HEAD` asks
    the same.
    """
    found = Receiving(context().storage, sha256)
    headers = {NEXT_OFFSET: str(found.offset)}
    if not found.is_whole:
        detail = f"The service does not have all of the workspace {sha256}; PUT it there."
        return problem(404, detail, headers=headers)
    found.note_use()
    return as_json(_view(sha256, found), 200, headers)


@routes.call(
    "PUT",
    "/v1/workspaces/<sha256:sha256>",
    answer=StoredWorkspace,
    takes="application/gzip",
    problems=(400, 409, 413),
    request_headers={
        "Content-Range": "`bytes FIRST-LAST/SIZE` for a part; the archive is complete with the "
        "part that ends it. Without it, the body is the whole archive."
    },
    response_headers={NEXT_OFFSET: "Number of bytes that the service has."},
)
def put_workspace(sha256: str) -> Response:
    """Send the archive of a workspace, whole or in parts, in order.

    A tar file, compressed by gzip, with the files below `files/`. One that the service has is not
    stored again. An upload that was interrupted goes on at `Spectrain-Next-Offset`, which `HEAD`
    and the answer 409 to a part that begins elsewhere give.
    """
    limit = context().settings.workspace_bytes
    start, total = _range(archive_limit(limit))
    request.max_content_length = archive_limit(limit)
    receiving = Receiving(context().storage, sha256)
    try:
        offset = receiving.take(request.stream, start, total)
    except RequestEntityTooLarge:
        raise _too_large(limit) from None
    except WrongOffsetError as error:
        return problem(409, str(error), headers={NEXT_OFFSET: str(error.offset)})
    except WrongHashError as error:
        return problem(422, str(error))
    return as_json(_view(sha256, receiving), 200, {NEXT_OFFSET: str(offset)})


def _view(sha256: str, found: Receiving) -> StoredWorkspace:
    return StoredWorkspace(sha256=sha256, size=found.offset, complete=found.is_whole)


def _range(most: int) -> tuple[int, int | None]:
    """Where the body begins in the archive, and the archive's size if that is known.

    Raises the HTTP errors 400 and 413.
    """
    given = request.headers.get("Content-Range")
    length = request.content_length
    if given is None:
        start, total = 0, length
    else:
        match = _RANGE.fullmatch(given)
        first, last, total = (int(number) for number in match.groups()) if match else (0, -1, 0)
        if first > last or last >= total or length not in {None, last - first + 1}:
            detail = "Content-Range is not of the form bytes FIRST-LAST/SIZE, or not of this body."
            raise BadRequest(detail)
        start = first
    if total is not None and total > most:
        raise _too_large(context().settings.workspace_bytes)
    return start, total


def _too_large(limit: int) -> RequestEntityTooLarge:
    return RequestEntityTooLarge(
        f"A workspace may have {bytes_text(limit)} at most; {VARIABLE} of the API sets this limit."
    )
