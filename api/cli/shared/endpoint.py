"""The service that a command talks to, and for how long it tries."""

from __future__ import annotations

from dataclasses import dataclass

import click
from click.core import ParameterSource

from api.client.client import Client
from api.client.nearest import nearest_service

# Seconds for which a command retries when no service answers. A person at the keyboard wants to
# know soon; a command that follows a job outlasts a restart of the service.
PATIENCE, FOLLOW_PATIENCE = 5, 120
_ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Endpoint:
    """The service to talk to."""

    url: str
    token: str | None
    timeout: float | None = None
    named: bool = True  # not merely the default

    def client(self, *, patient: bool = False) -> Client:
        """A client for the service that prints on standard error what it is waiting for."""
        return self._client(FOLLOW_PATIENCE if patient else PATIENCE)

    def hasty(self) -> Client:
        """A client for what can be done without the service: it waits for none to come."""
        return self._client(0)

    def _client(self, usual: float) -> Client:
        return Client(
            self.url,
            self.token or "",
            timeout=min(self.timeout or _ANSWER_SECONDS, _ANSWER_SECONDS),
            patience=usual if self.timeout is None else self.timeout,
            on_wait=lambda message: click.echo(message, err=True),
        )


def endpoint_of(ctx: click.Context) -> Endpoint:
    """The service that the options of `spectrain` name, or else the environment or a profile."""
    typed = {
        name: value
        for name, value in ctx.params.items()
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    wanted = (typed.get(name) or None for name in ("url", "token", "profile"))
    found = nearest_service(*wanted)
    return Endpoint(found.url, found.token, ctx.params["timeout"], found.named)
