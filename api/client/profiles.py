"""Profiles: services by name, from `~/.config/spectrain.toml`.

profile = "lab"                     # the one that is used if no other is named

[profiles.lab]
url = "https://spectrain.lab.example"
token_file = "~/.config/spectrain.token"
"""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.client.transport import SettingsRefusedError

_TOP = ("profile", "profiles")
_KEYS = ("url", "token", "token_file")


@dataclass(frozen=True)
class Profile:
    """A service, and the token for it."""

    url: str
    token: str | None


def config_path() -> Path:
    """Where the profiles are: below XDG_CONFIG_HOME, or in `~/.config`."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    return Path(base) / "spectrain.toml"


def find_profile(name: str | None) -> Profile | None:
    """The profile of a name; without one that which the file names, or None.

    Raises `SettingsRefusedError` for a file that cannot be used, and for an unknown name.
    """
    path = config_path()
    data = _read(path)
    profiles = data.get("profiles", {})
    wanted = name or data.get("profile")
    if wanted is None:
        return None
    section = profiles.get(str(wanted)) if isinstance(profiles, dict) else None
    if not isinstance(section, dict):
        known = ", ".join(sorted(profiles)) if isinstance(profiles, dict) else ""
        raise SettingsRefusedError(
            f"{path} has no profile {wanted!r}" + (f"; it has {known}" if known else "")
        )
    return _profile(path, f"profiles.{wanted}", section)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_bytes().decode()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsRefusedError(f"{path} cannot be read: {error}") from None
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise SettingsRefusedError(f"{path} is no valid TOML: {why}") from None
    _check_keys(path, "", data, _TOP)
    _check_private(path, data)
    return data


def _check_private(path: Path, data: Mapping[str, Any]) -> None:
    """Refuses a file with tokens that everybody on this machine may read."""
    profiles = data.get("profiles")
    sections = profiles.values() if isinstance(profiles, dict) else ()
    if any(isinstance(section, dict) and "token" in section for section in sections):
        refuse_if_public(path)


def refuse_if_public(path: Path) -> None:
    """Refuses a file that holds a token and is readable for everybody on this machine."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SettingsRefusedError(f"{path} cannot be read: {error}") from None
    if mode & stat.S_IROTH:
        raise SettingsRefusedError(
            f"{path} holds a token and everybody on this machine can read it: chmod 600 {path}"
        )


def _profile(path: Path, place: str, section: Mapping[str, Any]) -> Profile:
    _check_keys(path, place, section, _KEYS)
    for key in _KEYS:
        if key in section and (not isinstance(section[key], str) or not section[key].strip()):
            raise SettingsRefusedError(f"{path}: {place}.{key} is no text")
    if "url" not in section:
        raise SettingsRefusedError(f"{path}: {place} has no url")
    if "token" in section and "token_file" in section:
        raise SettingsRefusedError(f"{path}: {place} has a token and a token_file: give one")
    token = section.get("token")
    if "token_file" in section:
        token = _token_in(path.parent / Path(section["token_file"]).expanduser())
    return Profile(section["url"], token)


def _token_in(path: Path) -> str:
    refuse_if_public(path)
    try:
        return path.read_text().partition(",")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsRefusedError(f"{path} cannot be read: {error}") from None


def _check_keys(path: Path, place: str, section: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in section:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            where = f"{place}.{key}" if place else key
            raise SettingsRefusedError(f"{path}: unknown key {where}; {hint}")
