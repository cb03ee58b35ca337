"""The calls on accounts: who one is, logging in and out, tokens, and the audit."""

from __future__ import annotations

import time

from flask import Response, current_app, g, request

from api.schemas import FieldError
from api.schemas.accounts import (
    AuditPage,
    AuditQuery,
    CreatedToken,
    Login,
    Me,
    NewToken,
    TokenList,
    TokenView,
)
from api.server.access.access import COOKIE, csrf_of, session_of
from api.server.access.caller import Refusal
from api.server.access.guard import TOO_MANY_GUESSES, guard_of, this_caller, this_request
from api.server.context import context
from api.server.problems import InvalidInputError
from api.server.routes import Routes, as_json
from jobs.accounts.token import KeptToken, Role
from jobs.actor import ACTOR, Actor

routes = Routes("accounts")

SESSION_PATH = "/v1/session"
MAX_LOGIN_BYTES = 4096
_SESSION_SECONDS = 30 * 86400.0


@routes.call("GET", "/v1/me", answer=Me)
def get_me() -> Me:
    """Show who calls, and what that account may do."""
    caller = this_caller()
    return Me(name=caller.name, role=caller.role, token=caller.token_id, csrf=caller.csrf or None)


@routes.call(
    "POST", SESSION_PATH, answer=Me, public=True, problems=(401, 429, 503),
    response_headers={"Set-Cookie": "The session, for browsers: scripts cannot read it."},
)  # fmt: skip
def log_in(body: Login) -> Response:
    """Log in with a token: the session is a cookie.

    It lasts 30 days, and ends with the token. Each change that carries the cookie needs the header
    `Spectrain-CSRF-Token` with the answer's `csrf`.
    """
    guard = guard_of(current_app)
    token = context().tokens.find(body.token.strip())
    if seconds := guard.wait_for_guess(g.address, token.id if token else None):
        return guard.refuse("guessing", 429, TOO_MANY_GUESSES, seconds)
    if token is None:
        guard.wrong_token(g.address)
        return guard.refuse_for(Refusal.WRONG_TOKEN)
    ACTOR.set(Actor(token.owner, g.address))
    text = context().token_store.log_in(token, _SESSION_SECONDS)
    context().tokens.refresh()
    me = Me(name=token.owner, role=token.role, token=token.id, csrf=csrf_of(text))
    answer = as_json(me)
    _set_cookie(answer, text, int(_SESSION_SECONDS))
    return answer


@routes.call("DELETE", SESSION_PATH, answer=None, status=204, role=Role.METRICS)
def log_out() -> Response:
    """Log out: the session of the cookie ends everywhere."""
    if session := context().tokens.find(session_of(this_request()), session=True):
        context().token_store.revoke(session.id, "logged_out")
        context().tokens.refresh()
    answer = Response(status=204)
    _set_cookie(answer, "", 0)
    return answer


@routes.call("GET", "/v1/tokens", answer=TokenList, role=Role.ADMIN)
def list_tokens() -> TokenList:
    """List the tokens of the settings, of the file of tokens and of Redis."""
    context().tokens.refresh()
    used = context().token_store.used()
    return TokenList(tokens=[_view(token, used.get(token.id)) for token in context().tokens.all()])


@routes.call("POST", "/v1/tokens", answer=CreatedToken, status=201, role=Role.ADMIN)
def create_token(body: NewToken) -> Response:
    """Create a token; only this answer has its text."""
    owner = body.owner or this_caller().name
    if owner is None:
        allowed = "the name of an account: the caller has none"
        raise InvalidInputError([FieldError(field="owner", given="null", allowed=allowed)])
    expires_at = None if body.expires_seconds is None else time.time() + body.expires_seconds
    token, text = context().token_store.create(
        body.name, owner, body.role, expires_at=expires_at, limits=body.limits
    )
    context().tokens.refresh()
    created = CreatedToken(**_view(token, None).model_dump(), token=text)
    return as_json(created, 201, {"Cache-Control": "no-store"})


@routes.call("DELETE", "/v1/tokens/<token_id>", answer=None, status=204, role=Role.ADMIN)
def revoke_token(token_id: str) -> Response:
    """Revoke a token: within a second no process accepts it, and its sessions end."""
    context().token_store.revoke(token_id)
    context().tokens.refresh()
    return Response(status=204)


@routes.call("GET", "/v1/audit", answer=AuditPage, role=Role.ADMIN)
def read_audit(query: AuditQuery) -> AuditPage:
    """Read the changes that belong to no job, oldest first: the newest ones, or those after one.

    Changes of a job are its events.
    """
    entries = context().token_store.audit(after=query.after, limit=query.limit)
    return AuditPage(entries=entries, after=entries[-1].id if entries else query.after)


def _view(token: KeptToken, used_at: float | None) -> TokenView:
    plain = token.model_dump(exclude={"digest", "session_of"})
    return TokenView(**plain, last_used_at=used_at)


def _set_cookie(answer: Response, text: str, seconds: int) -> None:
    https = request.is_secure or context().access.proxies.is_https(this_request())
    answer.set_cookie(
        COOKIE, text, max_age=seconds, httponly=True, secure=https, samesite="Strict", path="/"
    )
    answer.cache_control.no_store = True
