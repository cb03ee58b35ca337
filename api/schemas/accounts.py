"""Accounts on the wire: who one is, tokens, sessions and the audit."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.base import Query, Wire
from jobs.accounts.token import AccountName, AuditEntry, Limits, Role, Token


class Me(Wire):
    """Who calls."""

    name: str | None = Field(description="Account of the caller; null: nobody has to have a name.")
    role: Role = Field(description="What the caller may do.")
    token: str | None = Field(None, description="Id of the token, also of a session's; else null.")
    csrf: str | None = Field(
        None,
        description="Value of the header `Spectrain-CSRF-Token` that each change has to carry; "
        "null: none is needed.",
    )


class Login(BaseModel):
    """A token to log in with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str = Field(min_length=1, max_length=1024, description="The token.")


class NewToken(BaseModel):
    """A token to create."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: AccountName = Field(description="What the token is for: `laptop`, `ci`.")
    owner: AccountName | None = Field(
        None, description="Account that it acts for; by default that of the caller."
    )
    role: Role = Field(Role.USER, description="What it may do.")
    expires_seconds: float | None = Field(
        None, gt=0, le=3.2e9, description="Time until it expires, seconds; null: never."
    )
    limits: Limits = Field(default_factory=Limits, description="What it may use at once.")


class TokenView(Token):
    """A token, with when it was used last."""

    last_used_at: float | None = Field(
        None, description="Time of its last use, to the minute, seconds since the epoch."
    )


class CreatedToken(TokenView):
    """A new token, with its text."""

    token: str = Field(description="The token itself: nobody can read it again later.")


class TokenList(Wire):
    """The tokens that are valid or have expired lately, without sessions."""

    tokens: list[TokenView] = Field(description="The tokens.")


class AuditQuery(Query):
    """Which changes to read."""

    after: str | None = Field(
        None, pattern=r"^[0-9]{1,15}-[0-9]{1,10}$", description="`after` of the previous page."
    )
    limit: int = Field(1000, ge=1, le=1000, description="Largest number of entries.")


class AuditPage(Wire):
    """Changes that belong to no job, oldest first."""

    entries: list[AuditEntry] = Field(description="The changes.")
    after: str | None = Field(None, description="`after` of the next page.")
