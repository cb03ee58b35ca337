"""The settings and the storage of a command that accesses Redis and storage directly."""

from __future__ import annotations

import sys
from pathlib import Path

from api.local.redis_server import redis_of
from api.local.service import DEFAULT_DATA, is_running
from jobs.setting_errors import SettingsError
from jobs.settings import Settings
from monitoring.storage.base import Storage, StorageError
from monitoring.storage.open import open_storage


def command_settings(data: Path | None) -> Settings:
    """The settings of the service that is named, or else the defaults; see `named_settings`."""
    return named_settings(data) or Settings()


def named_settings(data: Path | None, *, or_here: bool = True) -> Settings | None:
    """The settings of the service that somebody names; None if nobody does.

    The data directory of a `spectrain up` names one, or else the environment, or else (`or_here`)
    a `spectrain up` that runs in the present directory, which is said on standard error. Raises
    `NoRedisServerError` if the directory holds no service.
    """
    if data is not None:
        return _settings_of(data)
    settings = Settings()
    if settings.model_fields_set & {"redis_url", "storage_url"}:
        return settings
    if or_here and is_running(DEFAULT_DATA):
        print(f"The service of `spectrain up` in {DEFAULT_DATA.resolve()}:", file=sys.stderr)
        return _settings_of(DEFAULT_DATA)
    return None


def _settings_of(data: Path) -> Settings:
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
