"""The commands that access Redis and storage directly, with the settings of the service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from api.cli.base import as_json, cli
from api.cli.service import start
from api.cli.shared.endpoint import Endpoint

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Use the Redis and storage of the `spectrain up` with this data directory; by default "
    "those of the environment, or of the one that runs in ./spectrain-data.",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Print what would be done.")


@cli.command()
@data_option
@dry_run_option
@as_json
def reindex(**options: Any) -> None:
    """Rebuild job records from storage after a loss of Redis.

    Records that Redis still holds stay unchanged, so it is safe to run this at any time and more
    than once. Jobs that were running resume; jobs that were queued are queued again.
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
    help="Keep files that changed within this many days.",
)
@as_json
def gc(**options: Any) -> None:
    """Remove unneeded files from storage.

    These are the files of deleted jobs, and the files that killed workers left behind in jobs that
    have ended: temporary files, damaged or incomplete checkpoints, and checkpoints beyond
    keep_last. A run without a record in Redis that was not deleted is kept and listed, and the
    exit code is 1.
    """
    sys.exit(start("api.ops.gc", "gc", **options))


@cli.command()
@data_option
@click.pass_obj
def doctor(endpoint: Endpoint, data: Path | None) -> None:
    """Check what the service needs, and say what to fix.

    Checks Redis, storage, the clocks, whether all processes share one storage, the scratch disk of
    this machine, lost records, and workers. Run it on the machine of the API and on that of a
    worker, with their settings, or beside a running `spectrain up`. Elsewhere it asks the service,
    which then checks itself.
    """
    sys.exit(
        start("api.ops.doctor", "doctor", data=data, named=endpoint.named, connect=endpoint.hasty)
    )


@cli.command("redis-acl")
def redis_acl() -> None:
    """Print the commands that make users of Redis.

    One each for API, workers and reaper. Replace PASSWORD in each, and give them to `redis-cli`.
    Each part then gets the name and the password of its own user in SPECTRAIN_REDIS_URL.
    """
    sys.exit(start("api.ops.redis_acl", "redis_acl"))
