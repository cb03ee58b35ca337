"""The commands that work on Redis and storage themselves: where the service's settings are set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from api.cli.base import as_json, cli
from api.cli.service import start

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="That of a running `spectrain up`; else the settings of the environment say where.",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done.")


@cli.command()
@data_option
@dry_run_option
@as_json
def reindex(**options: Any) -> None:
    """Rebuild the records of all runs from storage, after Redis was lost.

    What Redis knows stays as it is, so that it may be run at any time, and again. Jobs that ran go
    on, jobs that waited wait again.
    """
    sys.exit(start("api.ops.reindex", "reindex", **options))


@cli.command()
@data_option
@dry_run_option
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=7.0,
    show_default=True,
    metavar="DAYS",
    help="Leave alone what has changed since.",
)
@as_json
def gc(**options: Any) -> None:
    """Remove from storage what nobody needs any more.

    Files of jobs that were deleted, and what killed workers left of jobs that have ended: temporary
    files, damaged and half checkpoints, those beyond keep_last. A run that Redis does not know and
    nobody deleted stays, and is named, with exit code 1.
    """
    sys.exit(start("api.ops.gc", "gc", **options))


@cli.command()
@data_option
def doctor(**options: Any) -> None:
    """Look at everything that the service needs, and say what to change.

    Redis, storage, the clocks, whether all processes see the same storage, this machine's scratch
    disk, lost records, workers. From where it stands: run it where the API runs, and where a worker
    does.
    """
    sys.exit(start("api.ops.doctor", "doctor", **options))
