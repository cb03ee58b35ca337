"""Serves the dashboard in front of the API, without its tokens: the files hold no secret.

They are no calls of the API: OpenAPI does not list them, and its access control and its metrics
do not see them.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.wrappers import Request, Response

from api.page.files import PageFile, read_page

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_YEAR_SECONDS = 31_536_000
# Scripts and styles come from files alone. uPlot and Preact set single properties of styles, which
# a policy allows. Pictures of a run are fetched with the token, and shown as blobs.
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}


def serve_page(app: Flask) -> None:
    """Puts the dashboard in front of the application."""
    app.wsgi_app = _in_front(app.wsgi_app)  # type: ignore[assignment]


def _in_front(api: WSGIApplication) -> WSGIApplication:
    files = read_page()

    def serve(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ.get("REQUEST_METHOD") in {"GET", "HEAD"}:
            file = files.get(path)
            if file is not None:
                return _answer(Request(environ), file)(environ, start)
        return api(environ, start)

    return serve


def _answer(request: Request, file: PageFile) -> Response:
    compress = request.accept_encodings["gzip"] > 0
    headers = {
        **_HEADERS,
        "Cache-Control": f"max-age={_YEAR_SECONDS}, immutable" if file.immutable else "no-cache",
    }
    answer = Response(
        file.compressed if compress else file.body, headers=headers, content_type=file.kind
    )
    answer.set_etag(f"{file.etag}-gzip" if compress else file.etag)
    if compress:
        answer.headers["Content-Encoding"] = "gzip"
    answer.make_conditional(request)
    if answer.status_code == HTTPStatus.NOT_MODIFIED:
        answer.headers.pop("Content-Encoding", None)
    return answer
