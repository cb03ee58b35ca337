"""What a translation is made of: the job, and what of the original it leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.model.elsewhere import ELSEWHERE, RESOURCES

_MOST_GPUS = 64
_POOL = "`resources: {pool: NAME}` chooses workers of a kind"
NO_REPOSITORY = "a workspace is a directory here, and no repository at a URL"


class ForeignError(Exception):
    """The file cannot become a job; the message says why."""


@dataclass
class Translation:
    """A job, and a line for each key of the original that it says otherwise or not at all."""

    job: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    # What makes it another job than the original: it is not submitted.
    obstacles: list[str] = field(default_factory=list)

    def note(self, key: str, text: str) -> None:
        """Says what becomes of a key."""
        self.notes.append(f"{key}: {text}")

    def leave_out(self, keys: Iterable[str], place: str = "") -> None:
        """Says of keys that the job has none of them, and what there is in their place."""
        known: Mapping[str, str] = RESOURCES if place == "resources." else ELSEWHERE
        for key in keys:
            text = known.get(key, "it has no meaning here").removeprefix("nothing: ")
            self.note(f"{place}{key}", f"left out: {text}")

    def put(self, section: str, **values: Any) -> None:
        """Adds values to a section of the job."""
        self.job.setdefault(section, {}).update(values)

    def take_gpus(self, key: str, count: object, kind: str) -> None:
        """Asks for GPUs; a fraction of one is a whole one, and their kind is a note."""
        try:
            wanted = float(str(count))
        except ValueError:
            self.note(key, f"left out: {count!r} is no number of GPUs")
            return
        gpus = min(max(1, -int(-wanted // 1)), _MOST_GPUS) if wanted > 0 else 0
        self.put("resources", gpus=gpus)
        if wanted != gpus:
            self.note(key, f"{count} became {gpus}: a job has whole GPUs")
        if kind:
            self.note(
                key, f"{kind} is left out: `resources: {{pool: NAME}}` chooses workers of a kind"
            )


def mapping(value: object, key: str) -> Mapping[str, Any]:
    """A section; empty for null. Raises `ForeignError` for what is none."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ForeignError(f"{key} is no mapping")
    return value


def is_one(value: object) -> bool:
    """Whether a number of nodes is one, or none is given."""
    return value is None or str(value).strip() == "1"


def items(value: object) -> list[Any]:
    """A list; a single value is a list of one, and null is empty."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def name_of(value: object) -> str:
    """A name that a job may have; '' if nothing of it is left."""
    return re.sub(r"[^a-z0-9_-]+", "-", str(value).lower()).strip("-")[:63]
