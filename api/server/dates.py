"""Dates in the headers of requests: one that cannot be a date counts as none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from werkzeug.http import parse_date

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_DATES = ("HTTP_IF_MODIFIED_SINCE", "HTTP_IF_UNMODIFIED_SINCE", "HTTP_IF_RANGE")


def without_odd_dates(application: WSGIApplication) -> WSGIApplication:
    """The application, which sees no date that werkzeug fails at."""

    def serve(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        for name in _DATES:
            try:
                parse_date(environ.get(name))
            except (OverflowError, ValueError):
                del environ[name]
        return application(environ, start)

    return serve
