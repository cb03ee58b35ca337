"""The settings of a command that accesses Redis and storage directly."""

from __future__ import annotations

from pathlib import Path

from api.local.redis_server import redis_of
from jobs.settings import Settings


def settings_here(data: Path | None) -> Settings:
    """The settings of the environment, or those of `spectrain up` with this data directory.

    Raises `NoRedisServerError` if the directory holds no service.
    """
    if data is None:
        return Settings()
    return Settings(
        redis_url=redis_of(data.resolve() / "redis"),
        storage_url=(data.resolve() / "experiments").as_uri(),
        scratch_dir=data.resolve() / "scratch",
    )
