"""The settings: environment variables with the prefix `SPECTRAIN_`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis import Redis


class Settings(BaseSettings):
    """What each process of the service reads when it starts."""

    model_config = SettingsConfigDict(env_prefix="SPECTRAIN_", extra="ignore", frozen=True)

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("SPECTRAIN_REDIS_URL", "REDIS_URL", "redis_url"),
        description="Where the records and the queue are.",
    )
    redis_prefix: str = Field("spectrain:", description="Prefix of every key in Redis.")
    storage_url: str = Field(
        "file:///experiments",
        description="Where runs are kept: a directory that all share, or s3://bucket/prefix.",
    )
    s3_endpoint_url: str = Field(
        "", description="Address of the object store, where that is not Amazon's."
    )
    api_tokens: str = Field(
        "",
        description="Bearer tokens, separated by commas; without one the API serves loopback only.",
    )
    api_host: str = Field("127.0.0.1", description="Address on which the API listens.")
    api_port: int = Field(8080, ge=0, le=65535, description="Port on which the API listens.")
    pool: str = Field("default", description="The pool whose jobs a worker takes.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="What training runs on; auto takes a GPU where there is one."
    )
    lease_seconds: float = Field(
        15.0, gt=0, description="A worker that is silent for so long has lost its job."
    )
    grace_seconds: float = Field(
        60.0, gt=0, description="Time from a stop request to the kill; less than the platform's."
    )
    aging_seconds: float = Field(
        3600.0,
        ge=0,
        description="A waiting job counts one priority more for every so long; 0: never.",
    )
    eviction_min_seconds: float = Field(
        120.0, ge=0, description="A job that has run for less is not evicted for a higher one."
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


def connect(settings: Settings) -> Redis:
    """A client of the settings' Redis that answers in `str` and notices a dead peer."""
    return Redis.from_url(
        settings.redis_url,
        decode_responses=True,
        socket_connect_timeout=5,
        socket_timeout=10,
        health_check_interval=15,
    )
