"""The calls on the service itself: liveness, readiness, metrics, description."""

from __future__ import annotations

from flask import Response, current_app

from api.schemas import INSTANCE, Health
from api.server.access.caller import Caller
from api.server.access.guard import this_request
from api.server.context import context
from api.server.problems import unavailable
from api.server.prometheus import CONTENT_TYPE, EXPORTER, Exporter
from api.server.reference import POLICY
from api.server.routes import Routes, as_json
from jobs.accounts.token import Role

OPENAPI = "SPECTRAIN_OPENAPI"
REFERENCE = "SPECTRAIN_REFERENCE"

routes = Routes("health")


@routes.call("GET", "/healthz", answer=Health, public=True)
def get_health() -> Health:
    """Check that the process answers (liveness)."""
    return Health()


@routes.call(
    "GET", "/readyz", answer=Health, problems=(503,), public=True,
    response_headers={INSTANCE: "SPECTRAIN_INSTANCE of the API that answers."},
)  # fmt: skip
def get_readiness() -> Response:
    """Check Redis, storage and the clocks of all three (readiness).

    Where the service asks for a token, the answer names the parts alone: anybody may call this. The
    log of the API and `spectrain doctor` say what is wrong with them.
    """
    found = context().readiness.found()
    if bad := [one for one in found if one.problem]:
        if _may_know():
            said = [f"{one.part}: {one.problem}" for one in bad]
        else:
            said = [f"{one.part} is not ready" for one in bad]
        answer = unavailable("; ".join(said) + ".")
    else:
        answer = as_json(Health(checks={one.part: "ok" for one in found}))
    answer.headers[INSTANCE] = context().settings.instance
    return answer


@routes.call("GET", "/metrics", answer="text/plain", role=Role.METRICS)
def scrape() -> Response:
    """Read the metrics of the service in the text format of Prometheus."""
    exporter: Exporter = current_app.extensions[EXPORTER]
    return Response(exporter.text(), content_type=CONTENT_TYPE)


@routes.call("GET", "/v1/openapi.json", answer="application/json")
def get_openapi() -> Response:
    """Read this OpenAPI description."""
    return Response(current_app.config[OPENAPI], content_type="application/json")


@routes.call("GET", "/v1/reference", answer="text/html", public=True)
def get_reference() -> Response:
    """Read the reference of the API, a page for people."""
    answer = Response(current_app.config[REFERENCE], content_type="text/html; charset=utf-8")
    answer.headers["Content-Security-Policy"] = POLICY
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Referrer-Policy"] = "no-referrer"
    return answer


def _may_know() -> bool:
    """Whether a caller without a token may know where the parts are."""
    ask = this_request()
    return not (ask.get("Authorization") or ask.get("Cookie")) and isinstance(
        context().access.caller(ask), Caller
    )
