"""What the calls on a run answer: events, log, metrics and files."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from api.schemas.base import Query, Wire
from jobs.model.record import Event, JobEvent


class EventPage(Wire):
    """A page of a job's events, oldest first."""

    events: list[Event] = Field(description="The events of this page.")
    after: str | None = Field(
        None, description="`after` of the next page; null before the first event."
    )


class EventFeed(Wire):
    """A page of the events of all jobs, oldest first."""

    events: list[JobEvent] = Field(description="The events of this page.")
    after: str | None = Field(
        None, description="`after` of the next page; null before the first event."
    )


class LogMatch(Wire):
    """A line of a log that has the text, and the lines around it."""

    offset: int = Field(description="Offset of the line in the log, bytes.")
    text: str = Field(
        description="The line without its end; of a line of more than 4,096 characters, those "
        "around the text."
    )
    before: list[str] = Field(description="The lines before it, shortened likewise.")
    after: list[str] = Field(description="The lines after it, shortened likewise.")


class LogMatches(Wire):
    """The lines of a log that have a text."""

    matches: list[LogMatch] = Field(description="The lines, in the order of the log.")
    next_offset: int | None = Field(
        description="`offset` from which to search on; null if the search has reached the end."
    )


class MetricsPage(Wire):
    """A page of metrics, in the order of the file."""

    rows: list[dict[str, Any]] = Field(
        description="Rows of metrics.jsonl: `step`, `timestamp` (seconds since the epoch) and "
        "each metric by name. A number that is not finite is the text `NaN`, `Infinity` or "
        "`-Infinity`."
    )
    cursor: str | None = Field(
        None, description="`cursor` of the next page; null before the first row."
    )
    after_step: int | None = Field(
        None, description="Step of the last row; null before the first row."
    )


class Artifact(Wire):
    """A file of a run."""

    path: str = Field(description="Path of the file within the run's directory.")
    size: int = Field(description="Size, bytes.")
    modified: float = Field(description="Time of the last change, seconds since the epoch.")


class ArtifactLink(Wire):
    """A symbolic link that the program of a run made."""

    path: str = Field(description="Path of the link within the run's directory.")
    target: str = Field(description="Where it leads, as the program wrote it.")


class ArtifactList(Wire):
    """The files and links of a run, by path."""

    artifacts: list[Artifact] = Field(description="The files.")
    links: list[ArtifactLink] = Field(default=[], description="The symbolic links.")


class EventQuery(Query):
    """Which events to read."""

    after: str | None = Field(
        None, pattern=r"^[0-9]{1,19}-[0-9]{1,19}$", description="`after` of the previous page."
    )
    limit: int = Field(200, ge=1, le=1000, description="Largest number of events in the page.")


class FeedQuery(Query):
    """Which events to read."""

    after: str | None = Field(
        None,
        pattern=r"^[0-9]{1,19}-[0-9]{1,19}$",
        description="`after` of the previous page; `0-0` for the oldest events that the service "
        "has. Without it, the newest ones.",
    )
    limit: int = Field(200, ge=1, le=1000, description="Largest number of events in the page.")


class ArtifactQuery(Query):
    """How to send a file."""

    redirect: bool = Field(
        True,
        description="Whether the answer may be a redirect to an object store: a script of a page "
        "cannot follow it.",
    )
    download: bool = Field(
        False, description="Whether a browser saves the file under its name, and never shows it."
    )


class ArchiveQuery(Query):
    """Which files to fetch."""

    prefix: str = Field(
        "", max_length=4096, description="Only files whose paths begin with this: `checkpoints/`."
    )


class LogQuery(Query):
    """Which part of the log to read."""

    offset: int = Field(0, ge=0, lt=2**63, description="Offset of the first byte.")
    limit: int = Field(
        1_048_576, ge=1, le=16_777_216, description="Largest number of bytes in the answer."
    )
    attempt: int | None = Field(
        None, ge=1, lt=2**31, description="Only whole lines of the output of this attempt."
    )
    rank: int | None = Field(
        None,
        ge=0,
        lt=10**6,
        description="Only whole lines that name this rank at their beginning, as torchrun's "
        "`--tee 3` (`[default0]:`) and PyTorch (`[rank0]:`) write them.",
    )
    tail: int | None = Field(
        None, ge=1, le=100_000, description="Only the last lines, this many; in place of `offset`."
    )
    since: float | None = Field(
        None,
        ge=0,
        le=1e11,
        description="Only lines that came after this time, seconds since the epoch, and those of "
        "up to ten seconds before.",
    )
    search: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Only lines with this text, in upper or lower case; the answer is JSON.",
    )
    context: int = Field(
        2, ge=0, le=20, description="With `search`, lines to show before and after each."
    )


class MetricsQuery(Query):
    """Which rows to read."""

    cursor: str | None = Field(
        None,
        pattern=r"^[0-9]{1,18}-[0-9]{1,19}$",
        description="`cursor` of the previous page. The answer costs the same at any place.",
    )
    after_step: int = Field(
        -1,
        ge=-1,
        lt=2**63,
        description="Only rows of steps after this one. Without `cursor` the service scans the "
        "file from its beginning.",
    )
    limit: int = Field(1000, ge=1, le=10_000, description="Largest number of rows in the page.")
