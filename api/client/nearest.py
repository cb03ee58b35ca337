"""The service to talk to: as it is given, by the environment, or by a profile."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from api.client.profiles import find_profile
from api.client.transport import SettingsRefusedError

DEFAULT_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True)
class Service:
    """A service, and the token for it."""

    url: str
    token: str | None
    named: bool = True  # not merely the default


def nearest_service(
    url: str | None = None, token: str | None = None, profile: str | None = None
) -> Service:
    """The service that is named nearest: by the arguments, the environment, or the profiles' file.

    The token of a profile is for the URL of that profile only. `token=""`: none at all. Raises
    `SettingsRefusedError`.
    """
    if url is None and profile is None:
        url = os.environ.get("SPECTRAIN_URL") or None
    if url is None:
        found = find_profile(profile or os.environ.get("SPECTRAIN_PROFILE") or None)
        if found is not None:
            url, token = found.url, found.token if token is None else token
    if token is None:
        token = os.environ.get("SPECTRAIN_API_TOKEN") or _token_of_file()
    return Service(url or DEFAULT_URL, token or None, named=url is not None)


def _token_of_file() -> str | None:
    path = os.environ.get("SPECTRAIN_API_TOKEN_FILE")
    try:
        return Path(path).read_text().partition(",")[0].strip() if path else None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsRefusedError(f"SPECTRAIN_API_TOKEN_FILE: {error}") from error
