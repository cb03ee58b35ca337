"""The settings: environment variables with the prefix `SPECTRAIN_`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import (
    AliasChoices,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis import Redis
from redis.connection import parse_url

from jobs.setting_errors import SettingsError, sentence

PREFIX = "SPECTRAIN_"
_DAY, _YEAR = 86400.0, 365 * 86400.0


class Settings(BaseSettings):
    """What each process of the service reads when it starts.

    `SPECTRAIN_X_FILE` names a file with the value, where `SPECTRAIN_X` itself is not set: secrets
    come as files. Raises `SettingsError` for values that cannot be used.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, allow_inf_nan=False
    )

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("SPECTRAIN_REDIS_URL", "REDIS_URL", "redis_url"),
        description="Where the records and the queue are.",
    )
    redis_password: str = Field("", description="Password of that Redis, where its URL has none.")
    redis_prefix: str = Field("spectrain:", description="Prefix of every key in Redis.")
    storage_url: str = Field(
        "file:///experiments",
        description="Where runs are kept: a directory that all share, or s3://bucket/prefix.",
    )
    s3_endpoint_url: str = Field(
        "", description="Address of the object store, where that is not Amazon's."
    )
    s3_redirect: bool = Field(
        True, description="Whether clients fetch files from the object store; false: from the API."
    )
    api_tokens: str = Field(
        "",
        description="Bearer tokens, separated by commas; without one the API serves loopback only.",
    )
    api_host: str = Field("127.0.0.1", description="Address on which the API listens.")
    api_port: int = Field(8080, ge=0, le=65535, description="Port on which the API listens.")
    instance: str = Field(
        "", description="Name of this instance of the API, which /readyz returns as a header."
    )
    pool: str = Field("default", description="The pool whose jobs a worker takes.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="What training runs on; auto takes a GPU where there is one."
    )
    lease_seconds: float = Field(
        15.0, gt=0, le=_DAY, description="A worker that is silent for so long has lost its job."
    )
    grace_seconds: float = Field(
        60.0,
        gt=0,
        le=_DAY,
        description="Time from a stop request to the kill; less than the platform's.",
    )
    aging_seconds: float = Field(
        3600.0,
        ge=0,
        le=_YEAR,
        description="A waiting job counts one priority more for every so long; 0: never.",
    )
    eviction_min_seconds: float = Field(
        120.0,
        ge=0,
        le=_YEAR,
        description="A job that has run for less is not evicted for a higher one.",
    )
    spot: Literal["auto", "aws", "gcp", "azure", "off"] = Field(
        "auto", description="Whose notices that a machine is taken away a worker watches for."
    )
    spot_metadata_url: str = Field(
        "", description="Address of the cloud's metadata service, where it is not the usual one."
    )
    scratch_dir: Path = Field(
        Path("/tmp/spectrain"),  # noqa: S108 - a local disk of the worker, one directory an attempt
        description="Local disk where attempts write before publication.",
    )
    warm_start: bool = Field(
        True, description="Whether a worker keeps torch imported, to start jobs in milliseconds."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_files(cls, given: dict[str, Any]) -> dict[str, Any]:
        files = {}
        for name in cls.model_fields:
            variable = f"{PREFIX}{name.upper()}"
            path = os.environ.get(f"{variable}_FILE")
            if path and variable not in os.environ and name not in given:
                # A field with several names is filled by the first of them that is there.
                files[variable if name == "redis_url" else name] = _read(f"{variable}_FILE", path)
        return {**given, **files}

    @model_validator(mode="wrap")
    @classmethod
    def _in_sentences(cls, given: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(given)
        except ValidationError as error:
            lines = [sentence(wrong, cls.model_fields, PREFIX) for wrong in error.errors()]
        raise SettingsError("\n".join(lines))

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: str) -> str:
        # Celery cannot use the third form that the client takes, unix://.
        if urlsplit(url).scheme not in {"redis", "rediss"}:
            raise ValueError(url)
        parse_url(url)  # type: ignore[no-untyped-call]
        return url

    @field_validator("storage_url")
    @classmethod
    def _is_storage(cls, url: str) -> str:
        parts = urlsplit(url)
        directory = parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path
        if not directory and not (parts.scheme == "s3" and parts.netloc):
            raise ValueError(url)
        return url

    @field_validator("s3_endpoint_url", "spot_metadata_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and not (parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0):
            raise ValueError(url)
        return url

    @property
    def redis_address(self) -> str:
        """The URL of Redis, password included."""
        parts = urlsplit(self.redis_url)
        if not self.redis_password or parts.password is not None:
            return self.redis_url
        user, host = parts.username or "", parts.netloc.rpartition("@")[2]
        password = quote(self.redis_password, safe="")
        return parts._replace(netloc=f"{user}:{password}@{host}").geturl()


def _read(variable: str, path: str) -> str:
    """What a file holds, without the newline at its end; raises `SettingsError`."""
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise SettingsError(
            f"{variable} names a file that cannot be read: {path} ({why})"
        ) from None


def connect(settings: Settings) -> Redis:
    """A client of the settings' Redis that answers in `str` and notices a dead peer."""
    return Redis.from_url(
        settings.redis_address,
        decode_responses=True,
        socket_connect_timeout=5,
        socket_timeout=10,
        health_check_interval=15,
    )
