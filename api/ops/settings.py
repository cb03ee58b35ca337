"""The settings and the storage of a command that accesses Redis and storage directly."""

from __future__ import annotations

from pathlib import Path

from api.local.redis_server import redis_of
from jobs.setting_errors import SettingsError
from jobs.settings import Settings
from monitoring.storage.base import Storage, StorageError
from monitoring.storage.open import open_storage


def command_settings(data: Path | None) -> Settings:
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


def command_storage(settings: Settings) -> Storage:
    """Opens the storage of the settings; raises `SettingsError` if they cannot be used."""
    try:
        return open_storage(settings.storage_url, **settings.storage_options)
    except StorageError as error:
        raise SettingsError(str(error)) from error
