"""Who calls, and what a request says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from jobs.accounts.token import Role


@dataclass(frozen=True)
class Caller:
    """An account with its role; `name` is None where nobody has to say who they are.

    `key` names whom requests are counted for. `csrf` is the value that has to come with each
    change, '' for callers whose proof no browser sends by itself. `is_known` is false while nobody
    can say whether the caller needs a proof.
    """

    name: str | None
    role: Role
    key: str = ""
    token_id: str | None = None
    csrf: str = ""
    requests_per_second: float | None = None
    is_known: bool = True


class Refusal(Enum):
    """Why a request has no caller: the status, and what to do."""

    NO_TOKEN = (
        401,
        "A token is required: send Authorization: Bearer TOKEN, or set SPECTRAIN_API_TOKEN.",
    )
    WRONG_TOKEN = (401, "The service does not accept this token: it is wrong, revoked or expired.")
    NO_SESSION = (401, "The session has ended: log in again.")
    OTHER_MACHINE = (
        403,
        "No API token is configured, so only localhost is accepted: set SPECTRAIN_API_TOKENS.",
    )
    BAD_NAME = (
        403,
        "The name that the proxy gave cannot be one of an account: letters, digits, . _ @ + - and "
        "at most 64 characters.",
    )
    NOT_READ = (503, "The tokens are in Redis, which is unreachable; try again in a moment.")

    @property
    def status(self) -> int:
        """The status of the answer."""
        return self.value[0]

    @property
    def detail(self) -> str:
        """What the answer says."""
        return self.value[1]


@dataclass(frozen=True)
class Ask:
    """A request as far as it says who calls: the address of its connection, and its headers."""

    peer: str
    header: Callable[[str], str | None]

    def get(self, name: str) -> str:
        """A header; '' if there is none."""
        return self.header(name) or ""
