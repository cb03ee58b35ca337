"""What the calls that submit jobs have in common."""

from __future__ import annotations

from flask import request

from api.schemas import IDEMPOTENCY_KEY, FieldError
from api.server.access.guard import this_caller
from api.server.context import context
from api.server.files.receiving import Receiving
from api.server.problems import InvalidInputError
from jobs.model.spec import JobSpec
from jobs.model.workspace import Workspace

IDEMPOTENCY_HEADER = {
    IDEMPOTENCY_KEY: "Any text of 1 to 255 printable ASCII characters. A second call of the "
    "same account with the same key within a week returns the job of the first."
}


def check_submission(spec: JobSpec) -> None:
    """Raises `InvalidInputError` for code that is not there, and for GPUs that a limit forbids."""
    if spec.workspace is not None:
        _check_workspace(spec.workspace)
    _check_gpus(spec)


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


def idempotency_key() -> str | None:
    """The key in the header of a call, if it has one; raises `InvalidInputError`."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        allowed = "1 to 255 printable ASCII characters"
        given = f"{len(key)} characters"
        raise InvalidInputError([FieldError(field=IDEMPOTENCY_KEY, given=given, allowed=allowed)])
    return key
