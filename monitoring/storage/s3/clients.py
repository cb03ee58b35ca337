"""Clients of boto3 for one bucket, and errors that name the variable to change.

boto3 notices some of its invalid settings only in a request, and names the variable of none.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import NoCredentialsError
from botocore.handlers import VALID_BUCKET

from monitoring.storage.base import StorageError
from monitoring.storage.s3.errors import S3_ERRORS, in_words
from monitoring.storage.s3.options import ENDPOINT, S3Options

# Short, because a worker that stops waits for the current call.
_CONNECT_SECONDS, _READ_SECONDS = 5, 20
_TRIES_OF_A_PART = 5  # one failed part must not fail the upload; other requests have three
TOKEN_FILE = "AWS_WEB_IDENTITY_TOKEN_FILE"  # noqa: S105 - the name of a variable
_FILES = (
    "AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE, by default ~/.aws/config and "
    "~/.aws/credentials"
)
# What botocore raises while it reads its settings: its own errors, and Python's for a value of the
# wrong type, for a program that is missing, and for a file that cannot be read.
_INVALID = (*S3_ERRORS, AttributeError, KeyError, OSError, TypeError, ValueError)


def open_clients(bucket: str, options: S3Options) -> tuple[Any, Any]:
    """The client for requests and the one for parts of a large file, with the same credentials.

    Raises `StorageError` for settings that cannot be used. Sends no request to the store.
    """
    if not VALID_BUCKET.match(bucket):
        raise StorageError(f"the storage URL names the bucket {bucket!r}, which is no valid name")
    endpoint_url = options.endpoint_url or None
    try:
        core = botocore.session.get_session()
        # boto3 itself reads only AWS_DEFAULT_REGION.
        region = os.environ.get("AWS_REGION") or None
        session = boto3.session.Session(region_name=region, botocore_session=core)
        _check_bundle(core.get_config_variable("ca_bundle"))
        client = _client(session, options)
        parts_client = _client(session, options, total_max_attempts=_TRIES_OF_A_PART)
        _check_endpoint(client.meta.endpoint_url)
        _check_credentials(session.get_credentials())
    except NoCredentialsError as error:
        endpoint = client.meta.endpoint_url
        raise in_words(error, endpoint=endpoint, bucket=bucket, key="") from error
    except _INVALID as error:
        message = " ".join(str(error).split()).rstrip(".")
        hint = _hint(message, endpoint_url)
        raise StorageError(f"cannot open the object store: {message}{hint}") from error
    for one in (client, parts_client):
        options.register(one)
        one.meta.events.register("before-sign.s3.DeleteObjects", _add_md5)
    return client, parts_client


def _client(session: boto3.session.Session, options: S3Options, **retries: int) -> Any:
    # Without a choice of the operator, that of the profile holds.
    addressing = {} if options.addressing == "auto" else {"addressing_style": options.addressing}
    if "AWS_MAX_ATTEMPTS" in os.environ:
        retries = {}
    return session.client(
        "s3",
        endpoint_url=options.endpoint_url or None,
        config=Config(
            s3=addressing or None,
            signature_version="s3v4",
            retries={"mode": "standard", **retries},
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            tcp_keepalive=True,
            max_pool_connections=16,
        ),
    )


def _add_md5(request: Any, **_: Any) -> None:
    """Adds what stores want that are older than boto3's checksums."""
    digest = hashlib.md5(request.data, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()


def _check_bundle(path: str | None) -> None:
    if path:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except OSError as error:
            why = "holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise ValueError(f"the certificates in {path} cannot be used: {why}") from error


def _check_endpoint(url: str) -> None:
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return
    raise ValueError(f"Invalid endpoint: {url}")


def _check_credentials(credentials: Any) -> None:
    """Raises an error if there are no credentials: a client does not look for them again."""
    if credentials is None:
        raise NoCredentialsError
    if credentials.method == "assume-role-with-web-identity" and TOKEN_FILE in os.environ:
        Path(os.environ[TOKEN_FILE]).read_bytes()


def _hint(message: str, endpoint_url: str | None) -> str:
    """Which variables hold the value that the message quotes."""
    names = [
        name
        for name, value in sorted(os.environ.items())
        if (name.startswith("AWS_") or name == ENDPOINT) and _quotes(message, value)
    ]
    from_caller = not names and endpoint_url and endpoint_url in message
    if from_caller or re.search(r"\bAWS_[A-Z]", message):
        return ""
    return f" (check {' and '.join(names) or _FILES})"


def _quotes(message: str, value: str) -> bool:
    """Whether a message holds a value, empty between quotes, or the host of its URL."""
    if not value:
        return re.search(r"\(\)|''|\"\"", message) is not None
    host = re.match(r"https?://([^/:]+)", value)
    quoted = [value, host[1]] if host else [value]
    return any(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", message) for one in quoted)
