"""The service that a command talks to: by its options, the environment, or a profile."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import click
from click.core import ParameterSource

from api.cli.shared.commands import SettingsRefusedError
from api.cli.shared.profiles import find_profile
from api.client.client import Client

DEFAULT_URL = "http://127.0.0.1:8080"
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
        usual = FOLLOW_PATIENCE if patient else PATIENCE
        return Client(
            self.url,
            self.token,
            timeout=min(self.timeout or _ANSWER_SECONDS, _ANSWER_SECONDS),
            patience=usual if self.timeout is None else self.timeout,
            on_wait=lambda message: click.echo(message, err=True),
        )


def endpoint_of(ctx: click.Context) -> Endpoint:
    """The service that the options of `spectrain` name, or else the environment or a profile.

    The token of a profile is for the URL of that profile only.
    """
    given = ctx.params
    typed = {
        name for name in given if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    url = given["url"] if "url" in typed or "profile" not in typed else None
    profile = find_profile(given["profile"]) if url is None else None
    token = given["token"] if "token" in typed else None
    if profile is not None:
        url, token = profile.url, token or profile.token
    token = token or given["token"] or _token_of_file()
    return Endpoint(url or DEFAULT_URL, token, given["timeout"], named=url is not None)


def _token_of_file() -> str | None:
    path = os.environ.get("SPECTRAIN_API_TOKEN_FILE")
    try:
        return Path(path).read_text().partition(",")[0].strip() if path else None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsRefusedError(f"SPECTRAIN_API_TOKEN_FILE: {error}") from error
