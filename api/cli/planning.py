"""What `submit` says without submitting: a plan, or the job that a task elsewhere becomes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from api.cli.base import print_json
from api.cli.foreign import ForeignError, name_of, translate
from api.cli.shared.endpoint import Endpoint
from api.client.transport import Unreachable
from api.render.jobs import starts_in
from api.schemas import JobPlan

_WIDTH = 100


def say_plan(endpoint: Endpoint, job: Mapping[str, Any], *, as_json: bool) -> None:
    """Asks what would become of a job, and says it."""
    with endpoint.client() as client:
        plan = client.plan(job)
    if as_json:
        print_json(plan)
    else:
        click.echo("\n".join(_lines(job, plan)))


def say_translated(
    endpoint: Endpoint, written: Mapping[str, Any], job: Mapping[str, Any], *, as_json: bool
) -> None:
    """Prints a job as the file that it would be, and says beside it what would become of it.

    The file needs no service: where nobody answers, that alone is said. `job` is `written` with
    all of its keys.
    """
    if not as_json:
        click.echo(_job_file(written), nl=False)
    plan: JobPlan | None = None
    try:
        with endpoint.hasty() as client:
            plan = client.plan(job)
    except Unreachable as error:
        click.echo(f"What would become of it is not known: {error}", err=True)
    else:
        click.echo("\n".join(_lines(job, plan)), err=True)
    if as_json:
        found = {"job": written, "plan": plan.model_dump(mode="json") if plan else None}
        click.echo(json.dumps(found, indent=2))


def _lines(job: Mapping[str, Any], plan: JobPlan) -> list[str]:
    ahead = {0: "no job", 1: "1 job"}.get(plan.position, f"{plan.position:,} jobs")
    workers = {0: "no worker", 1: "1 worker"}.get(plan.workers, f"{plan.workers:,} workers")
    pool = job["resources"]["pool"]
    lines = [
        f"{job['name']} is a valid job for pool {pool}; nothing was submitted.",
        f"queue    {ahead} ahead of it, {workers} in the pool",
        f"start    {plan.reason}{starts_in(plan.seconds)}",
    ]
    if plan.evicts:
        lines.append(f"evicts   {', '.join(plan.evicts)}")
    return lines


def translated(data: Any, file: str) -> dict[str, Any]:
    """The job that a task becomes; says what it leaves out, and raises `ClickException`."""
    try:
        found = translate(data)
    except ForeignError as error:
        raise click.ClickException(f"{file} cannot become a job: {error}") from None
    for note in found.notes:
        click.echo(f"  {note}", err=True)
    if found.obstacles:
        raise click.ClickException(
            "\n  ".join([f"{file} would become another job than it is:", *found.obstacles])
        )
    return {"name": name_of(Path(file).stem) or "task", **found.job}


def _job_file(job: Mapping[str, Any]) -> str:
    """A job as a file of YAML."""
    from ruamel.yaml import YAML  # noqa: PLC0415 - slow to import
    from ruamel.yaml.scalarstring import LiteralScalarString  # noqa: PLC0415

    def block(value: Any) -> Any:
        """Scripts as they are written, line by line."""
        if isinstance(value, Mapping):
            return {key: block(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [block(inner) for inner in value]
        return LiteralScalarString(value) if isinstance(value, str) and "\n" in value else value

    yaml = YAML()
    yaml.width = _WIDTH
    text = io.StringIO()
    yaml.dump(block(job), text)
    return text.getvalue()
