"""The settings: environment variables with the prefix `SPECTRAIN_`."""

from __future__ import annotations

import os
import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

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

from jobs.redis_address import RedisAddress, with_password
from jobs.setting_errors import SettingsError, sentence

PREFIX = "SPECTRAIN_"
DEFAULT_BYTES = 256_000_000
SHORTEST_TOKEN = 16  # characters
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_DAY, _YEAR = 86400.0, 365 * 86400.0


class Settings(BaseSettings):
    """The settings that each process of the service reads when it starts.

    Where `SPECTRAIN_X` is not set, `SPECTRAIN_X_FILE` may name a file that holds the value, as
    Docker and Kubernetes mount secrets. Raises `SettingsError` for invalid values.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, allow_inf_nan=False
    )

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("SPECTRAIN_REDIS_URL", "REDIS_URL", "redis_url"),
        description="URL of the Redis that holds the jobs and the queue.",
    )
    redis_password: str = Field("", description="Password of that Redis, if its URL holds none.")
    redis_prefix: str = Field("spectrain:", description="Prefix of every key in Redis.")
    storage_url: str = Field(
        "file:///experiments",
        description="URL of the storage for runs: file:///shared/directory or s3://bucket/prefix.",
    )
    s3_endpoint_url: str = Field("", description="URL of the object store, if it is not Amazon S3.")
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        "auto",
        description="Where requests to the object store name the bucket: path, or host (virtual).",
    )
    s3_extra_args: str = Field(
        "",
        description='Arguments of each write to it, JSON: {"ServerSideEncryption": "aws:kms"}.',
    )
    s3_redirect: bool = Field(
        True,
        description="Redirect downloads to the object store; false: send files through the API.",
    )
    api_tokens: str = Field(
        "",
        description="Bearer tokens, separated by commas; if none, the API accepts only localhost.",
    )
    tokens_file: str = Field(
        "", description="Path of a TOML file with tokens, which is read again when it changes."
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses or networks of proxies, separated by commas, whose headers say who "
        "the client is: X-Forwarded-For, X-Forwarded-Proto and that of the single sign-on.",
    )
    sso_header: str = Field(
        "",
        description="Header in which a trusted proxy names the person who has signed in, such as "
        "X-Forwarded-User; none: no single sign-on.",
    )
    sso_role: Literal["viewer", "user", "admin"] = Field(
        "user", description="Role of people who sign in at the proxy."
    )
    sso_admins: str = Field(
        "", description="Names of those of them who are administrators, separated by commas."
    )
    owner_requests: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Requests per second of a token to each API process, unless it has a limit of "
        "its own; 0: no limit.",
    )
    owner_running: int = Field(
        0,
        ge=0,
        le=10**6,
        description="Jobs of an owner that may run at once, unless a token has a limit of its own; "
        "0: no limit.",
    )
    owner_gpus: int = Field(
        0,
        ge=0,
        le=10**6,
        description="GPUs that running jobs of an owner may ask for, unless a token has a limit of "
        "its own; 0: no limit.",
    )
    api_host: str = Field("127.0.0.1", description="Address that the API listens on.")
    api_port: int = Field(8080, ge=0, le=65535, description="Port that the API listens on.")
    instance: str = Field(
        "", description="Name of this API process, returned by /readyz as a header."
    )
    workspace_bytes: int = Field(
        DEFAULT_BYTES,
        ge=1,
        le=10**12,
        description="Largest size (bytes) of the files that a job brings. The command line, the "
        "API and the workers each read it.",
    )
    webhook_secret: str = Field(
        "",
        description="Secret that webhooks are signed with, such as `whsec_` and base64; none: they "
        "are not signed.",
    )
    webhook_private: bool = Field(
        False,
        description="Send webhooks to addresses of this machine and of private networks too.",
    )
    pool: str = Field(
        "default",
        pattern=r"^[a-z0-9_-]{1,63}$",  # as in a job
        description="Pool whose jobs a worker runs.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device that jobs train on; auto uses a GPU if the machine has one."
    )
    lease_seconds: float = Field(
        15.0,
        gt=0,
        le=_DAY,
        description="Lease duration (seconds): a worker that does not renew in time loses its job.",
    )
    grace_seconds: float = Field(
        60.0,
        gt=0,
        le=_DAY,
        description="Seconds from a stop request to SIGKILL; must be shorter than the platform's.",
    )
    aging_seconds: float = Field(
        3600.0,
        ge=0,
        le=_YEAR,
        description="Seconds in the queue that raise a job's priority by one; 0 turns aging off.",
    )
    eviction_min_seconds: float = Field(
        120.0,
        ge=0,
        le=_YEAR,
        description="Seconds that a job runs before a job of higher priority may evict it.",
    )
    spot: Literal["auto", "aws", "gcp", "azure", "off"] = Field(
        "auto", description="Cloud whose spot termination notices a worker watches."
    )
    spot_metadata_url: str = Field(
        "", description="URL of the cloud's metadata service, if it is not the standard one."
    )
    scratch_dir: Path = Field(
        Path("/tmp/spectrain"),  # noqa: S108 - on a local disk of the worker, one directory per attempt
        description="Directory on a local disk that attempts write to before publication.",
    )
    cache_dir: str = Field(
        "",
        description="Directory on a local disk for code, inputs and environments of jobs; by "
        "default `.cache` in the scratch directory.",
    )
    cache_bytes: int = Field(
        20_000_000_000,
        ge=0,
        le=10**15,
        description="Size of that directory (bytes) above which a worker removes what is not used.",
    )
    job_env: str = Field(
        "",
        description="Environment variables of the worker that its jobs get too, beside the usual "
        "ones: names or patterns, separated by commas.",
    )
    job_user: str = Field(
        "",
        pattern=r"^(\d+(-\d+)?)?$",
        description="User id, or range of ids such as 60000-60015, of the jobs of a worker that "
        "runs as root.",
    )
    job_processes: int = Field(
        0, ge=0, le=10**6, description="Most processes and threads of one job; 0: any number."
    )
    run_bytes: int = Field(
        0, ge=0, le=2**60, description="Largest size (bytes) of a run directory; 0: any size."
    )
    umask: str = Field(
        "077",
        pattern=r"^[0-7]{3}$",
        description="Permissions that files of the service do not get, in octal digits.",
    )
    warm_start: bool = Field(
        True, description="Keep a process with torch imported, which starts jobs in milliseconds."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_files(cls, given: dict[str, Any]) -> dict[str, Any]:
        files = {}
        for name in cls.model_fields:
            variable = f"{PREFIX}{name.upper()}"
            path = os.environ.get(f"{variable}_FILE")
            if path and variable not in os.environ and name not in given:
                # pydantic fills a field with several names from the first that is set.
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
        RedisAddress.parse(url)
        return url

    @field_validator("api_tokens")
    @classmethod
    def _is_long(cls, tokens: str) -> str:
        if any(len(token) < SHORTEST_TOKEN for token in _parts(tokens)):
            raise ValueError
        return tokens

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, networks: str) -> str:
        for network in _parts(networks):
            ip_network(network, strict=False)
        return networks

    @field_validator("sso_header")
    @classmethod
    def _is_header(cls, header: str) -> str:
        if header and not _HEADER.fullmatch(header):
            raise ValueError(header)
        return header

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
    def token_texts(self) -> list[str]:
        """The tokens of `api_tokens`."""
        return _parts(self.api_tokens)

    @property
    def proxy_networks(self) -> list[IPv4Network | IPv6Network]:
        """The networks of trusted proxies."""
        return [ip_network(network, strict=False) for network in _parts(self.trusted_proxies)]

    @property
    def sso_admin_names(self) -> frozenset[str]:
        """The people who are administrators by single sign-on."""
        return frozenset(_parts(self.sso_admins))

    @property
    def storage_options(self) -> dict[str, str]:
        """The arguments of `monitoring.storage.open.open_storage` beside the URL."""
        return {
            "s3_endpoint_url": self.s3_endpoint_url,
            "s3_addressing": self.s3_addressing,
            "s3_extra_args": self.s3_extra_args,
        }

    @property
    def cache_path(self) -> Path:
        """The directory of the worker's cache."""
        return Path(self.cache_dir) if self.cache_dir else self.scratch_dir / ".cache"

    @property
    def umask_bits(self) -> int:
        """The argument of `os.umask`."""
        return int(self.umask, 8)

    @property
    def redis_address(self) -> str:
        """The URL of Redis, password included."""
        return with_password(self.redis_url, self.redis_password)


def _parts(text: str) -> list[str]:
    """The parts of a list that commas separate."""
    return [part for one in text.split(",") if (part := one.strip())]


def _read(variable: str, path: str) -> str:
    """The content of a file, without surrounding white space; raises `SettingsError`."""
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        # A secret may have been put in place of the file's name.
        shown = path if path.startswith("/") else "the value is not shown, since it is no full path"
        raise SettingsError(
            f"{variable} names a file that cannot be read: {shown} ({why})"
        ) from None


def connect(settings: Settings, **options: Any) -> Redis:
    """A client for the Redis of the settings that returns `str` and detects a dead peer.

    `options` are those of redis-py.
    """
    usual: dict[str, Any] = {
        "decode_responses": True,
        "socket_connect_timeout": 5,
        "socket_timeout": 10,
        "health_check_interval": 15,
    }
    return RedisAddress.parse(settings.redis_address).client(**{**usual, **options})
