"""The command line: `spectrain`."""

from __future__ import annotations

from api import cli_jobs, cli_keep, cli_service
from api.cli_base import cli

__all__ = ["cli", "cli_jobs", "cli_keep", "cli_service", "main"]  # whose import adds their commands


def main() -> None:
    """The console script."""
    cli(prog_name="spectrain")


if __name__ == "__main__":
    main()
