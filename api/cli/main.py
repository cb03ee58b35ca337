"""The command line: `spectrain`."""

from __future__ import annotations

from api.cli import jobs, ops, service
from api.cli.base import cli

__all__ = ["cli", "jobs", "main", "ops", "service"]  # whose import adds their commands


def main() -> None:
    """The console script."""
    cli(prog_name="spectrain")
