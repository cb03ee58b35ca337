"""`python -m api.server.healthcheck`: checks for Docker that the API of this container answers."""

from __future__ import annotations

import http.client

from jobs.entry import run
from jobs.settings import Settings

_SECONDS = 4.0


def failure(settings: Settings) -> str:
    """Why the API counts as dead, '' if it answers; readiness does not matter here."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - called, not listened on
    host = everywhere.get(settings.api_host, settings.api_host)
    connection = http.client.HTTPConnection(host, settings.api_port, timeout=_SECONDS)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"The API does not answer on port {settings.api_port}: {error}"
    finally:
        connection.close()
    return "" if status == http.client.OK else f"The API answers {status}."


if __name__ == "__main__":
    run(lambda: failure(Settings()))
