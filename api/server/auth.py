"""Who may call: bearers of a token, or, where none is set, this machine only."""

from __future__ import annotations

import hmac
from collections.abc import Set
from urllib.parse import urlsplit

from flask import Flask, Response, request

from api.hosts import is_loopback
from api.server.problems import problem
from jobs.settings import Settings


def tokens_of(settings: Settings) -> list[str]:
    """The tokens that the settings name."""
    return [token for part in settings.api_tokens.split(",") if (token := part.strip())]


def require_token(app: Flask, settings: Settings, public: Set[str]) -> None:
    """Refuses whoever may not call; the paths in `public` are everybody's."""
    tokens = [token.encode() for token in tokens_of(settings)]

    @app.before_request
    def check() -> Response | None:
        if request.path in public:
            return None
        return _bearer(tokens) if tokens else _this_machine()


def _bearer(tokens: list[bytes]) -> Response | None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # Every token is compared, in constant time, so that no answer tells by its time how near it is.
    matches = [hmac.compare_digest(given.strip().encode(), token) for token in tokens]
    if scheme.lower() == "bearer" and any(matches):
        return None
    headers = {"WWW-Authenticate": 'Bearer realm="spectrain"'}
    return problem(401, "Send a token of this service: Authorization: Bearer …", headers=headers)


def _this_machine() -> Response | None:
    """Keeps out web pages that make the browser of a person on this machine call the service.

    A page whose name was rebound to 127.0.0.1 calls with its own name as Host; any other page
    that posts without asking first (a simple request, of CORS) says where it comes from.
    """
    name = urlsplit(f"//{request.host}").hostname or ""
    origin = request.headers.get("Origin")
    if is_loopback(name) and (origin is None or urlsplit(origin).netloc == request.host):
        return None
    return problem(403, "Without tokens the service answers this machine only; set one to call it.")
