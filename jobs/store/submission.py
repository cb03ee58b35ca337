"""The arguments of `lua/jobs/submit.lua`, without I/O."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from jobs.model.record import Origin, new_job_id
from jobs.model.spec import JobSpec
from jobs.store.records import IDEMPOTENCY_SECONDS


def submission(
    spec: JobSpec,
    *,
    idempotency_key: str | None,
    owner: str | None,
    job_id: str | None,
    forked_from: Origin | None,
    asked: str,
) -> list[str | float]:
    """The arguments for a new job: its id, its place, its record, and its first event.

    `asked`: what else was asked for, by which two calls with the same key differ.
    """
    text = spec.model_dump_json()
    fields = {"owner": owner} if owner else {}
    event: dict[str, Any] = {}
    if spec.notify:
        fields["notify"] = "1"
    if forked_from is not None:
        origin = forked_from.model_dump_json()
        step = "" if forked_from.step is None else str(forked_from.step)
        # Progress is a checkpoint after that.
        fields |= {"forked_from": origin, "checkpoint_step": step}
        event = {"forked_from": forked_from.job, "step": forked_from.step}
    return [
        job_id or new_job_id(spec.name),
        spec.resources.pool,
        spec.priority,
        text,
        idempotency_key or "",
        hashlib.sha256(f"{text}{asked}".encode()).hexdigest(),
        IDEMPOTENCY_SECONDS,
        json.dumps(fields),
        json.dumps(event),
    ]
