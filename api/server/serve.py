"""Serves the API: `python -m api.server.serve`, or `spectrain api`."""

from __future__ import annotations

import argparse
import gc
import os
import socket
import sys
from collections.abc import Mapping, Sequence

from api.hosts import is_loopback
from api.ports import CannotListenError, join, listen
from api.server.access.access import Access
from api.server.access.caller import Ask, Refusal
from api.server.app import MAX_BODY_BYTES
from api.server.connections.channel import BodyLimit
from api.server.connections.server import serve
from api.server.context import EXTENSION
from api.server.views.accounts import MAX_LOGIN_BYTES, SESSION_PATH
from api.server.wsgi import application
from jobs.accounts.token import Role
from jobs.entry import run
from jobs.settings import Settings
from machine.readable import hide
from monitoring.storage.base import StorageError
from workspaces.layout import archive_limit

_WORKSPACES = "/v1/workspaces/"


def refusal(settings: Settings) -> str | None:
    """Why the API must not listen with these settings; None if it may.

    Tokens in Redis are not enough: they would be gone with a Redis that was lost.
    """
    if settings.sso_header and not settings.trusted_proxies:
        return (
            "SPECTRAIN_SSO_HEADER needs SPECTRAIN_TRUSTED_PROXIES: the addresses of the proxies "
            "that may say who has signed in."
        )
    asks = settings.token_texts or settings.tokens_file or settings.sso_header
    if asks or is_loopback(settings.api_host):
        return None
    return (
        f"Without tokens, anyone who reaches {settings.api_host} could run programs here. Set "
        "SPECTRAIN_API_TOKENS to one or more secrets (such as the output of `openssl rand -hex "
        "32`), or listen on 127.0.0.1."
    )


def body_limit(settings: Settings, access: Access) -> BodyLimit:
    """How much of a request's body to take: nothing from those who may change nothing."""
    archive = archive_limit(settings.workspace_bytes)

    def limit(path: str, headers: Mapping[str, str], address: str) -> int:
        if path == SESSION_PATH:
            return MAX_LOGIN_BYTES
        ask = Ask(address, lambda name: headers.get(name.upper().replace("-", "_")))
        caller = access.caller(ask)
        if isinstance(caller, Refusal) or not caller.role.covers(Role.USER):
            return 0
        return archive if path.startswith(_WORKSPACES) else MAX_BODY_BYTES

    return limit


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM, or says why not."""
    parser = argparse.ArgumentParser(prog="python -m api.server.serve")
    parser.add_argument("--fd", type=int, help="serve this listening socket, which was inherited")
    inherited = parser.parse_args(arguments).fd
    hide()
    settings = Settings()
    os.umask(settings.umask_bits)
    if reason := refusal(settings):
        sys.exit(reason)
    try:
        listener = (
            listen(settings.api_host, settings.api_port)
            if inherited is None
            else socket.socket(fileno=inherited)
        )
    except CannotListenError as error:
        sys.exit(f"Cannot start: {error}.")
    app = application()
    host, port, *_ = listener.getsockname()
    print(f"Spectrain API on http://{join(host, port)}", file=sys.stderr)
    access = app.extensions[EXTENSION].access
    largest = archive_limit(settings.workspace_bytes)
    # What is there now stays. Each full collection looked at it, 80 ms in which no call went on.
    gc.collect()
    gc.freeze()
    serve(app, listener, body_limit(settings, access), largest)


if __name__ == "__main__":
    run(main, StorageError)
