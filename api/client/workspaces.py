"""Packs and sends the workspace of a job, in place of which the service gets its hash."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from api.client.packed_before import PackedBefore
from api.client.transport import ApiError, ClientError, Transport
from api.schemas import NEXT_OFFSET
from jobs.model.workspace import WorkspaceSource
from workload.refusals import refusals
from workspaces.archive import Directory, Packed
from workspaces.layout import WorkspaceError, limit_here

_PART = 8 << 20  # bytes of a request
_TRIES = 5
# Stands for files that are not packed yet.
UNPACKED = {"sha256": "0" * 64, "files": 0, "bytes": 0}


class CannotSendError(ClientError):
    """A workspace cannot be packed or sent; the message says what to change."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


def source_of(spec: Mapping[str, Any]) -> WorkspaceSource | None:
    """The files that a job brings; None if it brings none, or the service has them already.

    Raises `CannotSendError` for what is neither.
    """
    given = spec.get("workspace")
    if given is None or (isinstance(given, Mapping) and "sha256" in given):
        return None
    try:
        return WorkspaceSource.model_validate(given)
    except ValidationError as error:
        lines = [f"workspace.{one}" for one in refusals(WorkspaceSource, error)]
        raise CannotSendError("\n  ".join(["The workspace is refused:", *lines])) from None


def try_workspace(source: WorkspaceSource) -> Packed:
    """What would be sent; raises `CannotSendError`."""
    try:
        directory = Directory(
            Path(source.path).expanduser(), limit=limit_here(), exclude=source.exclude
        )
        with tempfile.TemporaryFile() as archive:
            packed, _ = directory.pack(archive, directory.look())
    except WorkspaceError as error:
        raise _cannot_send(error) from None
    return packed


def send_workspace(
    http: Transport,
    source: WorkspaceSource,
    *,
    on_packed: Callable[[Packed], None],
    on_sent: Callable[[int, int], None],
) -> dict[str, object]:
    """Packs and sends the files; what the job says of them.

    Calls `on_packed` before anything is sent, and `on_sent` with the bytes that the service has
    and those of the archive. Raises `CannotSendError`, `ApiError` and `Unreachable`.
    """
    try:
        root = Path(source.path).expanduser()
        directory = Directory(root, limit=limit_here(), exclude=source.exclude)
        state = directory.look()
        before = PackedBefore()
        packed = before.find(state.fingerprint(root))
        if packed is not None and _received(http, packed) is None:
            on_packed(packed)
            return packed.reference()
        with tempfile.TemporaryFile() as archive:
            packed, state = directory.pack(archive, state)
            on_packed(packed)
            _send(http, archive, packed, on_sent)
        before.add(state.fingerprint(root), packed)
    except WorkspaceError as error:
        raise _cannot_send(error) from None
    return packed.reference()


def _cannot_send(error: WorkspaceError) -> CannotSendError:
    return CannotSendError(f"The workspace cannot be sent: {error}.")


def _send(
    http: Transport, archive: IO[bytes], packed: Packed, on_sent: Callable[[int, int], None]
) -> None:
    tries = _TRIES
    offset = _received(http, packed)
    while offset is not None:
        # All of it may be there, and not be verified: then it is sent again.
        offset %= packed.size
        archive.seek(offset)
        part = archive.read(_PART)
        last = offset + len(part) - 1
        headers = {
            "Content-Type": "application/gzip",
            "Content-Range": f"bytes {offset}-{last}/{packed.size}",
        }
        try:
            answer = http.call("PUT", _path(packed), content=part, headers=headers)
        except ApiError as error:
            # Somebody else sends the same files, or what was received before was damaged.
            tries -= 1
            if error.status not in {409, 422} or tries == 0:
                raise
            offset = _received(http, packed)
            continue
        sent = int(answer.headers[NEXT_OFFSET])
        on_sent(sent, packed.size)
        offset = sent if sent < packed.size else None


def _path(packed: Packed) -> str:
    return f"/v1/workspaces/{packed.sha256}"


def _received(http: Transport, packed: Packed) -> int | None:
    """The number of bytes that the service has; None if it has all of them."""
    try:
        http.call("GET", _path(packed))
    except ApiError as error:
        if error.status != 404:
            raise
        return int(error.headers.get(NEXT_OFFSET, "0"))
    return None
