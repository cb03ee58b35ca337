"""Lets a request in, or says why not; the decorator of the routes asks for the role."""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Callable, Set
from typing import cast

from flask import Flask, Response, current_app, g, request

from api.server.access.access import CSRF, Access
from api.server.access.caller import Ask, Caller, Refusal
from api.server.access.rates import Guesses, Rates
from api.server.problems import problem
from jobs.accounts.token import Role
from jobs.actor import ACTOR, NOBODY, Actor
from jobs.settings import Settings

READING = {"GET", "HEAD", "OPTIONS"}
_EXTENSION = "spectrain-guard"
TOO_MANY_GUESSES = "Too many wrong tokens came from this address; try again later."
# Why requests are refused, as the metric names it.
REASONS = (
    *(refusal.name.lower() for refusal in Refusal),
    "cross_site", "csrf", "guessing", "owner", "rate", "role",
)  # fmt: skip
_READ_AGAIN_SECONDS = 2
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="spectrain"'}


class Guard:
    """Checks each request of an application; `refused` counts by reason."""

    def __init__(self, settings: Settings, access: Access) -> None:
        self._usual_rate = settings.owner_requests
        self._rates, self._guesses = Rates(), Guesses()
        self.access = access
        self.refused = Counter[str]()

    def watch(self, app: Flask, public: Set[tuple[str, str]]) -> None:
        """Refuses calls without a caller; those in `public`, by method and path, need none."""
        app.extensions[_EXTENSION] = self
        app.before_request(lambda: self._check(public))

        @app.teardown_request
        def forget(_: BaseException | None) -> None:
            ACTOR.set(NOBODY)

    def refuse(self, reason: str, status: int, detail: str, seconds: int = 0) -> Response:
        """A refusal, counted by its reason."""
        self.refused[reason] += 1
        headers = dict(_CHALLENGE) if status == 401 else {}
        if seconds:
            headers["Retry-After"] = str(seconds)
        return problem(status, detail, headers=headers)

    def refuse_for(self, refusal: Refusal) -> Response:
        """The answer to a request that has no caller."""
        seconds = _READ_AGAIN_SECONDS if refusal is Refusal.NOT_READ else 0
        return self.refuse(refusal.name.lower(), refusal.status, refusal.detail, seconds)

    def wrong_token(self, address: str) -> None:
        """Counts a wrong token from an address."""
        self._guesses.note_wrong(address)

    def wait_for_guess(self, address: str, token_id: str | None) -> int:
        """The seconds for which a token from an address is not looked at."""
        return self._guesses.wait(address, token_id)

    def _check(self, public: Set[tuple[str, str]]) -> Response | None:
        # A browser says so itself, whatever page it shows: no page of somebody else changes a job.
        site = request.headers.get("Sec-Fetch-Site", "")
        if request.method not in READING and site == "cross-site":
            return self.refuse(
                "cross_site", 403, "A page of another site may not change anything here."
            )
        ask = this_request()
        g.address = self.access.proxies.address(ask)
        ACTOR.set(Actor("", g.address))
        method = "GET" if request.method in READING else request.method
        if (method, request.path) in public:
            return None
        found = self.access.caller(ask)
        given = found.token_id if isinstance(found, Caller) else None
        if (given or found is Refusal.WRONG_TOKEN) and (
            seconds := self._guesses.wait(g.address, given)
        ):
            return self.refuse("guessing", 429, TOO_MANY_GUESSES, seconds)
        if isinstance(found, Refusal):
            if found is Refusal.WRONG_TOKEN:
                self._guesses.note_wrong(g.address)
            return self.refuse_for(found)
        g.caller = found
        ACTOR.set(Actor(found.name or "", g.address))
        if found.token_id:
            self._guesses.note_good(g.address, found.token_id)
        return self._too_often(found) or self._forged(found)

    def _too_often(self, caller: Caller) -> Response | None:
        rate = caller.requests_per_second or self._usual_rate
        seconds = self._rates.wait(caller.key, rate) if rate and caller.key else 0
        if not seconds:
            return None
        detail = f"More than {rate:g} requests per second; try again in {seconds} s."
        return self.refuse("rate", 429, detail, seconds)

    def _forged(self, caller: Caller) -> Response | None:
        given = request.headers.get(CSRF, "").encode()
        if request.method in READING or not caller.csrf:
            return None
        if hmac.compare_digest(given, caller.csrf.encode()):
            return None
        detail = f"A change by cookie or single sign-on needs the header {CSRF}; GET /v1/me has it."
        return self.refuse("csrf", 403, detail)


def this_request() -> Ask:
    """The request that is being answered."""
    return Ask(request.remote_addr or "", request.headers.get)


def guard_of(app: Flask) -> Guard:
    """The guard of an application."""
    return cast(Guard, app.extensions[_EXTENSION])


def this_caller() -> Caller:
    """Who makes the call that is being answered."""
    return cast(Caller, g.caller)


def check_role(needed: Role, owner: Callable[[], str | None] | None) -> Response | None:
    """Refuses a call that needs a role which the caller lacks.

    `owner` finds whose job the call changes: a user changes only their own jobs.
    """
    caller, guard = this_caller(), guard_of(current_app)
    if not caller.role.covers(needed) and not caller.is_known:
        return guard.refuse_for(Refusal.NOT_READ)
    if not caller.role.covers(needed):
        detail = f"This call needs the role {needed}; yours is {caller.role}."
        return guard.refuse("role", 403, detail)
    if owner is None or caller.role is Role.ADMIN or (whose := owner()) == caller.name:
        return None
    rule = f"is {whose}'s: only its owner and" if whose else "has no owner: only"
    detail = f"The job {rule} administrators may change it."
    return guard.refuse("owner", 403, detail)
