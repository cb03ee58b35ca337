"""Serves the API with gunicorn: `python -m api.server.serve`, or `spectrain api`."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence

from flask import Flask
from gunicorn.app.base import BaseApplication

from api.hosts import is_loopback
from api.ports import CannotListenError, join, listen
from api.server.auth import tokens_of
from api.server.wsgi import application
from jobs.entry import run
from jobs.settings import Settings
from monitoring.storage.base import StorageError
from monitoring.storage.open import open_storage

# One process shares one pool of connections; its threads mostly wait for Redis and disks.
_THREADS = 16


def refusal(settings: Settings) -> str | None:
    """Why the API must not listen with these settings; None if it may."""
    if tokens_of(settings) or is_loopback(settings.api_host):
        return None
    return (
        f"Without tokens, anyone who reaches {settings.api_host} could run programs here. Set "
        "SPECTRAIN_API_TOKENS to one or more secrets (such as the output of `openssl rand -hex "
        "32`), or listen on 127.0.0.1."
    )


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, with a socket that listens already.

    Configured here alone: no gunicorn.conf.py of the working directory is executed, and that
    directory does not become a place of imports.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._fd = listener.detach()
        super().__init__()

    def load_config(self) -> None:
        """Sets what differs from gunicorn's defaults."""
        options = {
            "bind": f"fd://{self._fd}",
            "worker_class": "gthread",
            "workers": 1,
            "threads": _THREADS,
            "timeout": 60,
            "graceful_timeout": 5,
            "keepalive": 30,
            "proc_name": "spectrain-api",
            "control_socket_disable": True,
            "loglevel": "warning",
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """What it serves."""
        return application()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM, or says why not."""
    parser = argparse.ArgumentParser(prog="python -m api.server.serve")
    parser.add_argument("--fd", type=int, help="serve this listening socket, which was inherited")
    inherited = parser.parse_args(arguments).fd
    settings = Settings()
    if reason := refusal(settings):
        sys.exit(reason)
    open_storage(settings.storage_url, **settings.storage_options)  # before gunicorn starts workers
    try:
        listener = (
            listen(settings.api_host, settings.api_port)
            if inherited is None
            else socket.socket(fileno=inherited)
        )
    except CannotListenError as error:
        sys.exit(f"Cannot start: {error}.")
    host, port, *_ = listener.getsockname()
    print(f"Spectrain API on http://{join(host, port)}", file=sys.stderr)
    Server(listener).run()


if __name__ == "__main__":
    run(main, StorageError)
