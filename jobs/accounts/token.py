"""Tokens, as the service keeps them: hashed, with a role, an owner and limits; and their audit."""

from __future__ import annotations

import hashlib
import re
import secrets
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

_NAME = r"^[A-Za-z0-9](?:[A-Za-z0-9._@+-]{0,62}[A-Za-z0-9])?$"
_PREFIX, _SESSION_PREFIX = "spectrain_", "spectrain_session_"
_BYTES = 32
_ID_BYTES = 5

AccountName = Annotated[str, Field(pattern=_NAME)]


class Role(StrEnum):
    """What a caller may do; each role may do what those before it may."""

    METRICS = "metrics"
    VIEWER = "viewer"
    USER = "user"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        """Whether a caller with this role may make a call that needs another one."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class Limits(BaseModel):
    """What the holder of a token may use at once; null: as the settings say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_second: float | None = Field(
        None, gt=0, le=1e6, description="Requests per second of the token, to each API process."
    )
    running: int | None = Field(
        None, ge=0, le=10**6, description="Jobs of the owner that may run at once."
    )
    gpus: int | None = Field(
        None, ge=0, le=10**6, description="GPUs that running jobs of the owner may ask for."
    )


class Token(BaseModel):
    """A token: all that is known of it but its text."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(description="Id of the token.")
    name: str = Field(description="What the token is for.")
    owner: str = Field(description="Account that the token acts for.")
    role: Role = Field(description="What the token may do.")
    created_at: float = Field(0.0, description="Time of creation, seconds since the epoch.")
    expires_at: float | None = Field(
        None, description="Time from which it is refused, seconds since the epoch; null: never."
    )
    limits: Limits = Field(default_factory=Limits, description="Limits of the token.")


class KeptToken(Token):
    """A token with the hash of its text.

    The texts are random, 256 bits of them, so that nobody finds one by trying: a plain SHA-256 is
    as safe here as a slow hash, which protects passwords that people choose.
    """

    digest: str
    session_of: str = ""  # the token that somebody logged in with; a session ends with it

    def is_over(self, now: float) -> bool:
        """Whether the token has expired."""
        return self.expires_at is not None and now >= self.expires_at


class AuditEntry(BaseModel):
    """A change that belongs to no job."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(description="Id of the entry, in order.")
    at: float = Field(description="Time of the change, seconds since the epoch.")
    type: str = Field(description="Kind of change: token_created, token_revoked, logged_in, …")
    data: dict[str, Any] = Field(default_factory=dict, description="Details of the change.")
    by: str | None = Field(None, description="Account that made it; null: one without a name.")
    address: str | None = Field(None, description="Address of the client that made it.")


def digest_of(text: str) -> str:
    """The hash of a token's text, by which it is found."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def new_text(*, session: bool = False) -> str:
    """A new token; scanners of secrets can recognise its beginning."""
    return (_SESSION_PREFIX if session else _PREFIX) + secrets.token_urlsafe(_BYTES)


def new_token_id() -> str:
    """A new id."""
    return f"t-{secrets.token_hex(_ID_BYTES)}"


def is_account_name(text: str) -> bool:
    """Whether a text can be the name of an account."""
    return re.fullmatch(_NAME, text) is not None
