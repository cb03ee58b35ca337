"""The tokens in Redis, and the audit of changes that belong to no job."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from redis import Redis

from jobs.accounts.token import (
    AuditEntry,
    KeptToken,
    Limits,
    Role,
    digest_of,
    new_text,
    new_token_id,
)
from jobs.actor import ACTOR
from jobs.errors import SpectrainError
from jobs.store.keys import Keys
from jobs.store.reading import event_of
from jobs.store.scripts import Scripts

log = logging.getLogger("spectrain.audit")

# What is over stays in the list for so long, seconds, for a person who looks why.
_FORGET_SECONDS = 7 * 86400.0
_FORGET_SESSION_SECONDS = 3600.0


class TokenNotFoundError(SpectrainError):
    """No token that the service keeps has that id."""

    def __init__(self, token_id: str) -> None:
        super().__init__(
            f"There is no token {token_id!r} here; those of the settings and of the file of tokens "
            "are removed there."
        )


class TokenStore:
    """Creates, lists and revokes tokens; raises `jobs.errors.STORE_AWAY` while Redis is away."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis: Any = redis  # answers in `str`
        self._keys = Keys(prefix)
        self._run = Scripts(redis, prefix)

    def version(self) -> str:
        """Changes with each change of the tokens."""
        return str(self._redis.get(self._keys.tokens_version) or "")

    def all(self) -> list[KeptToken]:
        """The tokens and sessions, oldest first; one that cannot be read is left out."""
        found = [_readable(i, text) for i, text in self._redis.hgetall(self._keys.tokens).items()]
        return sorted((t for t in found if t), key=lambda token: (token.created_at, token.id))

    def create(
        self, name: str, owner: str, role: Role, *, expires_at: float | None = None,
        limits: Limits | None = None,
    ) -> tuple[KeptToken, str]:  # fmt: skip
        """A new token, and its text, which nobody can find out later."""
        text = new_text()
        token = KeptToken(
            id=new_token_id(), name=name, owner=owner, role=role, created_at=time.time(),
            expires_at=expires_at, limits=limits or Limits(), digest=digest_of(text),
        )  # fmt: skip
        self._put(token, "token_created", {"token": token.id, "name": name, "owner": owner,
                                           "role": role, "expires_at": expires_at})  # fmt: skip
        return token, text

    def log_in(self, token: KeptToken, seconds: float) -> str:
        """Begins a session of the token; returns the text of its cookie."""
        text, now = new_text(session=True), time.time()
        session = token.model_copy(
            update={
                "id": new_token_id(),
                "digest": digest_of(text),
                "session_of": token.id,
                "created_at": now,
                "expires_at": min(now + seconds, token.expires_at or now + seconds),
            }
        )
        self._put(session, "logged_in", {"token": token.id, "owner": token.owner})
        return text

    def revoke(self, token_id: str, kind: str = "token_revoked") -> None:
        """Removes a token; raises `TokenNotFoundError`."""
        data = {"token": token_id}
        status, _ = self._run("accounts/token", token_id, "", kind, json.dumps(data), "[]")
        if status == "missing":
            raise TokenNotFoundError(token_id)
        _log(kind, data)

    def note(self, kind: str, data: Mapping[str, Any]) -> None:
        """Notes a change that belongs to no job."""
        self._run("accounts/audit", kind, json.dumps(data))
        _log(kind, data)

    def audit(self, *, after: str | None = None, limit: int = 1000) -> list[AuditEntry]:
        """The changes after an entry, oldest first; None: the newest."""
        if after is None:
            entries = self._redis.xrevrange(self._keys.audit, "+", "-", count=limit)[::-1]
        else:
            entries = self._redis.xrange(self._keys.audit, f"({after}", "+", count=limit)
        return [AuditEntry.model_validate(event_of(*entry)) for entry in entries]

    def used(self) -> dict[str, float]:
        """When each token was used last, to the minute, seconds since the epoch."""
        found = self._redis.hgetall(self._keys.tokens_used)
        return {token_id: float(at) for token_id, at in found.items()}

    def note_used(self, times: Mapping[str, float]) -> None:
        """Notes when tokens were used."""
        self._redis.hset(
            self._keys.tokens_used, mapping={i: f"{at:.0f}" for i, at in times.items()}
        )

    def limit(self, owners: Mapping[str, tuple[int, int]]) -> None:
        """Sets what each owner may run at once: jobs and GPUs, -1 for no limit."""
        limits = {owner: f"{jobs} {gpus}" for owner, (jobs, gpus) in owners.items()}
        self._run("accounts/limits", json.dumps(limits))

    def _put(self, token: KeptToken, kind: str, data: Mapping[str, Any]) -> None:
        over = json.dumps([one.id for one in self.all() if _is_forgotten(one)])
        self._run("accounts/token", token.id, token.model_dump_json(), kind, json.dumps(data), over)
        _log(kind, data)


def _is_forgotten(token: KeptToken) -> bool:
    keep = _FORGET_SESSION_SECONDS if token.session_of else _FORGET_SECONDS
    return token.is_over(time.time() - keep)


def _readable(token_id: str, text: str) -> KeptToken | None:
    try:
        return KeptToken.model_validate_json(text)
    except ValidationError as error:
        logging.getLogger(__name__).warning("token %s cannot be read: %s", token_id, error)
        return None


def _log(kind: str, data: Mapping[str, Any]) -> None:
    actor = ACTOR.get()
    details = " ".join(f"{name}={value}" for name, value in data.items() if value is not None)
    log.info("%s by=%s from=%s %s", kind, actor.name or "-", actor.address or "-", details)
