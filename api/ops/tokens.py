"""`spectrain token create --direct`: tokens without the API, for the first administrator."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from api.local.redis_server import NoRedisServerError
from api.ops.settings import command_settings
from api.schemas.accounts import NewToken
from jobs.accounts.book import ADMIN
from jobs.accounts.store import TokenNotFoundError, TokenStore
from jobs.actor import ACTOR, Actor
from jobs.checks import explain_redis_error
from jobs.errors import STORE_AWAY
from jobs.redis_address import where_is
from jobs.settings import connect


def create(*, new: NewToken, data: Path | None) -> int:
    """Creates a token and prints it; returns 1 if Redis is away."""

    def with_store(store: TokenStore) -> None:
        expires_at = time.time() + new.expires_seconds if new.expires_seconds else None
        token, text = store.create(
            new.name, new.owner or ADMIN, new.role, expires_at=expires_at, limits=new.limits
        )
        print(f"{token.id}: {token.role} for {token.owner}", file=sys.stderr)
        print(text)

    return _run(with_store, data)


def revoke(*, token_id: str, data: Path | None) -> int:
    """Revokes a token; returns 1 if there is none, or Redis is away."""

    def with_store(store: TokenStore) -> None:
        store.revoke(token_id)
        print(f"{token_id} is revoked")

    return _run(with_store, data)


def _run(act: Callable[[TokenStore], None], data: Path | None) -> int:
    ACTOR.set(Actor(ADMIN, "this machine"))
    try:
        settings = command_settings(data)
        redis = connect(settings)
    except NoRedisServerError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        act(TokenStore(redis, settings.redis_prefix))
    except TokenNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    except STORE_AWAY as error:
        print(f"Error: {explain_redis_error(error, where_is(redis))}", file=sys.stderr)
        if data is None:
            print("The Redis of a running `spectrain up` is found by --data DIR.", file=sys.stderr)
        return 1
    finally:
        redis.close()
    return 0
