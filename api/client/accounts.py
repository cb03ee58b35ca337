"""The calls on accounts: who one is, and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from api.client.transport import Transport
from api.schemas.accounts import AuditPage, CreatedToken, Me, NewToken, TokenList, TokenView


class Accounts:
    """Accounts of the service of a `Client`; each method raises like its methods."""

    def __init__(self, http: Transport) -> None:
        self._http = http

    def me(self) -> Me:
        """Who calls, and what that account may do."""
        return self._http.read(Me, "GET", "/v1/me")

    def tokens(self) -> Sequence[TokenView]:
        """The tokens that are valid or have expired lately."""
        return self._http.read(TokenList, "GET", "/v1/tokens").tokens

    def create(self, token: NewToken) -> CreatedToken:
        """Creates a token; nobody can read its text again later."""
        body = token.model_dump(mode="json", exclude_none=True)
        return self._http.read(CreatedToken, "POST", "/v1/tokens", json=body)

    def revoke(self, token_id: str) -> None:
        """Revokes a token and ends its sessions."""
        self._http.call("DELETE", f"/v1/tokens/{quote(token_id, safe='')}")

    def audit(self, after: str | None = None, *, limit: int = 200) -> AuditPage:
        """The changes that belong to no job after an entry; None: the newest ones."""
        return self._http.read(AuditPage, "GET", "/v1/audit", {"after": after, "limit": limit})
