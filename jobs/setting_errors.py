"""Messages for invalid settings; they never contain a secret."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

_SECRET = re.compile(r"password|token|secret")
_URL = re.compile(r"url$")
_LONGEST = 200
_HTTP = "http://host:port or https://host:port"
_FORMS = {
    "redis_url": (
        "redis://host:port/number or rediss://host:port/number; with Sentinel "
        "redis+sentinel://host:port,host:port/service/number"
    ),
    "storage_url": "file:///directory or s3://bucket/prefix",
    "s3_endpoint_url": _HTTP,
    "spot_metadata_url": _HTTP,
    "api_tokens": "tokens of at least 16 characters, separated by commas",
    "trusted_proxies": "addresses or networks, separated by commas: 10.0.0.0/8, ::1",
    "sso_header": "the name of a header, such as X-Forwarded-User",
    "pool": "1 to 63 of a-z, 0-9, _ and -",
    "job_user": "a user id such as 60000, or a range such as 60000-60015",
    "umask": "three octal digits, such as 077 or 007",
}
_LIMITS = {Gt: "gt", Ge: "ge", Le: "le"}


class SettingsError(Exception):
    """The environment holds invalid settings; the message has one line for each."""


def sentence(wrong: ErrorDetails, fields: Mapping[str, FieldInfo], prefix: str) -> str:
    """The message for one error: the variable, its value and the values that are allowed."""
    name = str(wrong["loc"][0]).lower().removeprefix(prefix.lower())
    allowed = _FORMS.get(name) or _allowed(fields[name])
    return f"{_variable(name, prefix)} is {_shown(name, wrong['input'])}; allowed: {allowed}."


def _variable(name: str, prefix: str) -> str:
    """The name of the variable that the value comes from."""
    own = f"{prefix}{name.upper()}"
    if own in os.environ:
        return own
    if os.environ.get(f"{own}_FILE"):
        return f"{own} (from {own}_FILE)"
    return "REDIS_URL" if name == "redis_url" and "REDIS_URL" in os.environ else own


def _shown(name: str, value: object) -> str:
    """The value, without the credentials and the query of a URL."""
    if _SECRET.search(name):
        return "invalid (the value is not shown)"
    text = str(value)
    if _URL.search(name):
        text = re.sub(r"^(.*?://)?.*@", r"\1***@", text, flags=re.S)
        text = re.sub(r"^(.*?://)?:.*", r"\1:***", text, flags=re.S)  # a password without its host
        text = re.sub(r"\?.*", "?***", text, flags=re.S)
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def _allowed(field: FieldInfo) -> str:
    kind = field.annotation
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if kind is bool:
        return "true or false"
    if kind not in {int, float}:
        return "text"
    limits = {type(limit): getattr(limit, _LIMITS[type(limit)]) for limit in field.metadata
              if type(limit) in _LIMITS}  # fmt: skip
    words = "a whole number" if kind is int else "a number"
    if Gt in limits:
        words += f" greater than {limits[Gt]:.10g}, at most {limits[Le]:.10g}"
    elif Ge in limits:
        words += f" from {limits[Ge]:.10g} to {limits[Le]:.10g}"
    return words
