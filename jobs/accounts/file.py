"""Tokens from a file, which operators keep in order by other means than the API."""

from __future__ import annotations

import hashlib
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jobs.accounts.token import AccountName, KeptToken, Limits, Role, digest_of
from jobs.setting_errors import SettingsError
from jobs.settings import SHORTEST_TOKEN


class _Entry(BaseModel):
    """One `[[token]]` of the file."""

    model_config = ConfigDict(extra="forbid")

    name: AccountName
    owner: AccountName
    role: Role
    token: str | None = Field(None, min_length=SHORTEST_TOKEN)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    expires: datetime | date | None = None
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _has_one_secret(self) -> _Entry:
        if (self.token is None) == (self.sha256 is None):
            raise ValueError("give either `token` or `sha256`")
        return self

    def kept(self) -> KeptToken:
        digest = self.sha256 or digest_of(self.token or "")
        place = hashlib.sha256(f"{self.owner}/{self.name}/{digest}".encode()).hexdigest()[:10]
        return KeptToken(
            id=f"f-{place}", name=self.name, owner=self.owner, role=self.role, digest=digest,
            limits=self.limits, expires_at=None if self.expires is None else _time(self.expires),
        )  # fmt: skip


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: list[_Entry] = []


def read_tokens(path: Path) -> list[KeptToken]:
    """The tokens of a TOML file; raises `SettingsError`, which shows no secret."""
    try:
        entries = _File.model_validate(tomllib.loads(path.read_text())).token
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"The file of tokens {path} cannot be read: {why}.") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"The file of tokens {path} is not TOML: {error}.") from None
    except ValidationError as error:
        lines = [f"{_where(wrong['loc'])}: {wrong['msg']}" for wrong in error.errors()]
        raise SettingsError(f"The file of tokens {path} is invalid: {'; '.join(lines)}.") from None
    return [entry.kept() for entry in entries]


def _where(location: tuple[int | str, ...]) -> str:
    """The place of an error: `token 2 role`, counted from 1."""
    return " ".join(str(part + 1) if isinstance(part, int) else part for part in location)


def _time(given: datetime | date) -> float:
    """Seconds since the epoch; a time without a zone is UTC, and a date its beginning."""
    moment = given if isinstance(given, datetime) else datetime(given.year, given.month, given.day)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
