"""Serves the API with gunicorn: `python -m api.server.serve`, or `spectrain api`."""

from __future__ import annotations

import os
import sys

from pydantic import ValidationError

from api.hosts import is_loopback
from api.server.auth import tokens_of
from jobs.settings import Settings

# One process keeps one pool of connections; its threads wait for Redis and disks, not for Python.
_THREADS = 16


def refusal(settings: Settings) -> str | None:
    """Why the API must not listen as the settings say; None where it may."""
    if tokens_of(settings) or is_loopback(settings.api_host):
        return None
    return (
        f"The API would let everybody who reaches {settings.api_host} run programs here. Set "
        "SPECTRAIN_API_TOKENS to one or more secrets (such as the output of `openssl rand -hex "
        "32`), or listen on 127.0.0.1."
    )


def command(settings: Settings) -> list[str]:
    """The command line of gunicorn."""
    host = f"[{settings.api_host}]" if ":" in settings.api_host else settings.api_host
    return [
        *(sys.executable, "-m", "gunicorn", "api.server.wsgi:application()"),
        *("--bind", f"{host}:{settings.api_port}"),
        *("--worker-class", "gthread", "--workers", "1", "--threads", str(_THREADS)),
        *("--timeout", "60", "--graceful-timeout", "5", "--keep-alive", "30"),
        *("--name", "spectrain-api", "--no-control-socket", "--log-level", "warning"),
    ]


def main() -> None:
    """Becomes gunicorn, or says why not."""
    try:
        settings = Settings()
    except ValidationError as error:
        sys.exit(f"Settings: {error}")
    if reason := refusal(settings):
        sys.exit(reason)
    arguments = command(settings)
    print(f"Spectrain API on http://{settings.api_host}:{settings.api_port}", file=sys.stderr)
    os.execv(arguments[0], arguments)  # noqa: S606 - our own command line, no shell


if __name__ == "__main__":
    main()
