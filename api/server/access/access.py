"""Who calls, by the headers of a request: a token, a session, the proxy, or being here."""

from __future__ import annotations

import hashlib
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from api.hosts import is_loopback
from api.server.access.caller import Ask, Caller, Refusal
from api.server.access.proxies import Proxies
from jobs.accounts.book import TokenBook
from jobs.accounts.token import KeptToken, Role, is_account_name
from jobs.settings import Settings

COOKIE = "spectrain-session"
CSRF = "Spectrain-CSRF-Token"
# No page of another site can add a header of its own, unless the service allows it: any value will
# do where there is no secret to make one of.
_CSRF_OF_PROXY = "same-origin"


class Access:
    """Finds the caller of a request without any I/O: the loop of the server asks as well."""

    def __init__(self, settings: Settings, book: TokenBook) -> None:
        self._settings = settings
        self._book = book
        self._is_here = is_loopback(settings.api_host)
        self.proxies = Proxies(settings)

    def caller(self, ask: Ask) -> Caller | Refusal:
        """Who calls, or why nobody does."""
        scheme, _, given = ask.get("Authorization").partition(" ")
        if scheme.lower() == "bearer":
            token = self._book.find(given.strip())
            return self._of_token(token) if token else self._unknown(Refusal.WRONG_TOKEN)
        session = session_of(ask)
        token = self._book.find(session, session=True) if session else None
        if token is not None:
            return self._of_token(token, session)
        if user := self.proxies.user(ask):
            return self._of_proxy(user)
        if self._asks_nobody:
            return self._of_this_machine(ask)
        return self._unknown(Refusal.NO_SESSION if session else Refusal.NO_TOKEN)

    @property
    def _asks_nobody(self) -> bool:
        """Whether callers need no proof; they have to be on this machine then."""
        return self._is_here and self._book.is_empty and not self._settings.sso_header

    def _unknown(self, refusal: Refusal) -> Refusal:
        """The refusal, unless the token may be one that could not be read yet."""
        known = self._book.is_static or self._book.is_read
        return refusal if known else Refusal.NOT_READ

    def _of_token(self, token: KeptToken, session: str = "") -> Caller:
        self._book.mark_used(token)
        own = self._book.parent(token)
        return Caller(
            name=own.owner,
            role=own.role,
            key=own.id,
            token_id=own.id,
            csrf=csrf_of(session) if session else "",
            requests_per_second=own.limits.requests_per_second,
        )

    def _of_this_machine(self, ask: Ask) -> Caller | Refusal:
        if not _is_from_here(ask.get("Host"), ask.header("Origin")):
            return Refusal.OTHER_MACHINE
        # Redis may have tokens, which it could not say yet: nothing is changed until it has.
        role = Role.ADMIN if self._book.is_read else Role.VIEWER
        return Caller(None, role, is_known=self._book.is_read)

    def _of_proxy(self, user: str) -> Caller | Refusal:
        if not is_account_name(user):
            return Refusal.BAD_NAME
        admin = user in self._settings.sso_admin_names
        role = Role.ADMIN if admin else Role(self._settings.sso_role)
        return Caller(name=user, role=role, key=f"proxy {user}", csrf=_CSRF_OF_PROXY)


def session_of(ask: Ask) -> str:
    """The text of the session's cookie; '' if there is none."""
    try:
        cookie = SimpleCookie(ask.get("Cookie")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


def csrf_of(session: str) -> str:
    """The value that changes of a session carry: a page of another site cannot know it."""
    return hashlib.sha256(f"csrf {session}".encode()).hexdigest()[:32]


def _is_from_here(host: str, origin: str | None) -> bool:
    """Whether no web page calls the service through a browser on this machine.

    A page whose name was rebound to 127.0.0.1 sends its own name as Host. Any other page that posts
    without a preflight (a simple request of CORS) sends its Origin.
    """
    name = _parts(f"//{host}")[1]
    return is_loopback(name) and (origin is None or _parts(origin)[0] == host)


def _parts(url: str) -> tuple[str, str]:
    """Host with port, and host alone, of a URL; nothing for one that is none."""
    try:
        parts = urlsplit(url)
        return parts.netloc, parts.hostname or ""
    except ValueError:  # such as http://[
        return "", ""
