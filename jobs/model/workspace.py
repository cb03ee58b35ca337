"""The workspace of a job: what a job file says, and what reaches the service."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, model_validator

from jobs.model.words import SUBMITTED
from workload.settings import Strict

_Pattern = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00\n]*$")]


class WorkspaceSource(Strict):
    """Which files a job brings. The command line and the Python client send them."""

    path: str = Field(
        min_length=1,
        max_length=4096,
        pattern=r"^[^\x00]*$",
        description="In a job file: directory whose files are sent, relative to the job file.",
    )
    exclude: list[_Pattern] = Field(
        default_factory=list,
        max_length=1024,
        description="In a job file: what is not sent, in the syntax of `.gitignore`; `!name` sends "
        "what git ignores.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str) else given


class Workspace(Strict):
    """The files that a job brings, as the service has them: an archive that was sent before."""

    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="Over HTTP: SHA-256 of the archive, which `PUT /v1/workspaces/{sha256}` "
        "received.",
    )
    files: int = Field(ge=0, le=10_000_000, description="Over HTTP: number of its files.")
    bytes: int = Field(ge=0, le=2**60, description="Over HTTP: size of its files, bytes.")

    @model_validator(mode="before")
    @classmethod
    def _not_a_source(cls, given: Any, info: ValidationInfo) -> Any:
        is_source = isinstance(given, str) or (isinstance(given, dict) and "path" in given)
        if is_source and info.context == SUBMITTED:
            raise ValueError(
                "sha256, files and bytes of an archive that PUT /v1/workspaces/{sha256} has "
                "received; `spectrain submit` and the Python client make it from `path`, which "
                "the service cannot see"
            )
        return given
