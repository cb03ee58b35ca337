"""The `spectrain` command."""

from __future__ import annotations

from api.cli import jobs, ops, service, submit, token
from api.cli.base import cli
from jobs.entry import run

__all__ = ["cli", "jobs", "main", "ops", "service", "submit", "token"]  # whose import adds commands


def main() -> None:
    """Runs the console script."""
    run(lambda: cli(prog_name="spectrain"))
