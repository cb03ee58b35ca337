"""The `spectrain` command."""

from __future__ import annotations

from api.cli import cancel, fork, jobs, ops, service, submit, token
from api.cli.base import cli
from api.cli.look import comparing, curves, events, logs, pages, watch
from jobs.entry import run

__all__ = [  # whose import adds commands
    "cancel", "cli", "comparing", "curves", "events", "fork", "jobs", "logs", "main", "ops",
    "pages", "service", "submit", "token", "watch",
]  # fmt: skip


def main() -> None:
    """Runs the console script."""
    run(lambda: cli(prog_name="spectrain"))
