"""Access control: bearer tokens, or localhost only when none is configured."""

from __future__ import annotations

import hmac
from collections.abc import Set
from urllib.parse import urlsplit

from flask import Flask, Response, request

from api.hosts import is_loopback
from api.server.problems import problem
from jobs.settings import Settings

_READING = {"GET", "HEAD", "OPTIONS"}


def tokens_of(settings: Settings) -> list[str]:
    """The configured tokens."""
    return [token for part in settings.api_tokens.split(",") if (token := part.strip())]


class Access:
    """Who may call, by the headers of a request."""

    def __init__(self, settings: Settings) -> None:
        self._tokens = [token.encode() for token in tokens_of(settings)]

    @property
    def by_token(self) -> bool:
        """Whether callers need a token; otherwise they have to be on this machine."""
        return bool(self._tokens)

    def allows(self, *, authorization: str, host: str, origin: str | None) -> bool:
        """Whether a request with these headers may be answered."""
        if self._tokens:
            return self._has_token(authorization)
        return _is_from_here(host, origin)

    def _has_token(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        # Compare with every token, in constant time: the response time must not reveal a partial
        # match.
        found = given.strip().encode(errors="replace")
        matches = [hmac.compare_digest(found, token) for token in self._tokens]
        return scheme.lower() == "bearer" and any(matches)


def require_token(app: Flask, access: Access, public: Set[str]) -> None:
    """Refuses calls without access; the paths in `public` need none."""

    @app.before_request
    def check() -> Response | None:
        # A browser says so itself, whatever page it shows: no page of somebody else changes a job.
        site = request.headers.get("Sec-Fetch-Site", "")
        if request.method not in _READING and site == "cross-site":
            return problem(403, "A page of another site may not change anything here.")
        if request.path in public or access.allows(
            authorization=request.headers.get("Authorization", ""),
            host=request.headers.get("Host", ""),
            origin=request.headers.get("Origin"),
        ):
            return None
        if access.by_token:
            headers = {"WWW-Authenticate": 'Bearer realm="spectrain"'}
            detail = "A token is required: send Authorization: Bearer TOKEN."
            return problem(401, detail, headers=headers)
        return problem(
            403,
            "No API token is configured, so only localhost is accepted: set SPECTRAIN_API_TOKENS.",
        )


def _is_from_here(host: str, origin: str | None) -> bool:
    """Whether no web page calls the service through a browser on this machine.

    A page whose name was rebound to 127.0.0.1 sends its own name as Host. Any other page that posts
    without a preflight (a simple request of CORS) sends its Origin.
    """
    name = _parts(f"//{host}")[1]
    return is_loopback(name) and (origin is None or _parts(origin)[0] == host)


def _parts(url: str) -> tuple[str, str]:
    """Host with port, and host alone, of a URL; nothing for one that is none."""
    try:
        parts = urlsplit(url)
        return parts.netloc, parts.hostname or ""
    except ValueError:  # such as http://[
        return "", ""
