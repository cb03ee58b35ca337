"""Redaction of secrets: values of environment variables, named entries, and URLs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from monitoring.runs.secret_names import is_secret_name, is_secret_variable

_SHORTEST = 6  # characters; a shorter value would match harmless text
HIDDEN = "***"

# Values that are not secrets even under such a name: a switch, a small number, <pad>.
_HARMLESS = re.compile(r"(?i)true|false|none|null|yes|no|on|off|[-+.\d]{0,5}|<.*>|\[.*\]|\*+")
_IN_URL = re.compile(
    r"""(?P<scheme>\b[a-z][a-z0-9+.-]{0,20}://)"""
    r"""(?:(?P<user>[^\s/?#"'<>:@]{0,200}):(?P<password>[^\s/?#"'<>]{1,200})|[\w.-]{20,200})@""",
    re.I,
)
# A name matches only at the beginning of a word, so the time stays linear in long texts.
_ASSIGNED = re.compile(
    r"""(?<![\w.-])(?P<name>[\w.-]{2,80})(?P<between>=["']?|["']\s?[:=]\s?["'])"""
    r"""(?P<value>[^\s"'&;,)]+)"""
)
_OPTION = re.compile(
    r"(?<!\S)(?P<name>--?[A-Za-z][\w.-]{1,80})(?P<between>\s+)(?P<value>[^\s-]\S*)"
)
_BARE_OPTION = re.compile(r"--?[A-Za-z][\w.-]*")


def redact(tree: Any, environment: Mapping[str, str]) -> Any:
    """Replace the secrets in a JSON tree by "***".

    Secrets are values of environment variables whose names look like secrets, strings below a key
    that names a secret, values of such options (`--api-key=…`, `--api-key …`) and assignments in a
    text, and passwords in URLs. Numbers and booleans are kept.
    """
    secrets = {
        value
        for name, variable in environment.items()
        for value in _secrets_of(name, variable)
        if len(value) >= _SHORTEST
    }
    # Longest first: one secret may contain another.
    found = sorted(map(re.escape, secrets), key=len, reverse=True)
    return _Redaction(re.compile("|".join(found) or r"(?!)")).tree(tree)


class _Redaction:
    def __init__(self, known: re.Pattern[str]) -> None:
        self._known = known

    def tree(self, tree: Any, *, secret: bool = False) -> Any:
        """Redact a tree; with `secret`, every string in it that may be a secret."""
        if isinstance(tree, str):
            return HIDDEN if secret and not _HARMLESS.fullmatch(tree) else self._text(tree)
        if isinstance(tree, dict):
            return {
                self._text(name): self.tree(item, secret=secret or _is_secret_entry(name, item))
                for name, item in tree.items()
            }
        if isinstance(tree, list):
            return [
                self.tree(item, secret=secret or _is_secret_option(before, item))
                for before, item in zip([None, *tree], tree, strict=False)
            ]
        return tree

    def _text(self, text: str) -> str:
        text = self._known.sub(HIDDEN, text)
        text = _IN_URL.sub(_without_password, text)
        return _OPTION.sub(_without_value, _ASSIGNED.sub(_without_value, text))


def _secrets_of(name: str, value: str) -> Sequence[str]:
    if is_secret_variable(name):
        return [value]
    return [match["password"] for match in _IN_URL.finditer(value) if match["password"]]


def _is_secret_entry(name: str, item: Any) -> bool:
    # `token: {embedding: learned}` is part of a model; `credentials: {…}` is not.
    ordinary = isinstance(item, dict) and name.lower().endswith("token")
    return is_secret_name(name) and not ordinary


def _is_secret_option(before: Any, item: Any) -> bool:
    return (
        isinstance(before, str)
        and isinstance(item, str)
        and not item.startswith("-")
        and _BARE_OPTION.fullmatch(before) is not None
        and is_secret_name(before)
    )


def _without_password(match: re.Match[str]) -> str:
    user = "" if match["password"] is None else f"{match['user']}:"
    return f"{match['scheme']}{user}{HIDDEN}@"


def _without_value(match: re.Match[str]) -> str:
    if not is_secret_name(match["name"]) or _HARMLESS.fullmatch(match["value"]):
        return match[0]
    return f"{match['name']}{match['between']}{HIDDEN}"
