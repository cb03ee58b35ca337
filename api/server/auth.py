"""Access control: bearer tokens, or localhost only when none is configured."""

from __future__ import annotations

import hmac
from collections.abc import Set
from urllib.parse import urlsplit

from flask import Flask, Response, request

from api.hosts import is_loopback
from api.server.problems import problem
from jobs.settings import Settings


def tokens_of(settings: Settings) -> list[str]:
    """The configured tokens."""
    return [token for part in settings.api_tokens.split(",") if (token := part.strip())]


def require_token(app: Flask, settings: Settings, public: Set[str]) -> None:
    """Refuses calls without access; the paths in `public` need none."""
    tokens = [token.encode() for token in tokens_of(settings)]

    @app.before_request
    def check() -> Response | None:
        if request.path in public:
            return None
        return _bearer(tokens) if tokens else _localhost()


def _bearer(tokens: list[bytes]) -> Response | None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # Compare with every token, in constant time: the response time must not reveal a partial match.
    matches = [hmac.compare_digest(given.strip().encode(), token) for token in tokens]
    if scheme.lower() == "bearer" and any(matches):
        return None
    headers = {"WWW-Authenticate": 'Bearer realm="spectrain"'}
    return problem(401, "A token is required: send Authorization: Bearer TOKEN.", headers=headers)


def _localhost() -> Response | None:
    """Refuses web pages that call the service through a browser on this machine.

    A page whose name was rebound to 127.0.0.1 sends its own name as Host. Any other page that posts
    without a preflight (a simple request of CORS) sends its Origin.
    """
    name = urlsplit(f"//{request.host}").hostname or ""
    origin = request.headers.get("Origin")
    if is_loopback(name) and (origin is None or origin.partition("//")[2] == request.host):
        return None
    detail = "No API token is configured, so only localhost is accepted: set SPECTRAIN_API_TOKENS."
    return problem(403, detail)
