"""Errors of an object store and the network, as messages that say what to change."""

from __future__ import annotations

import errno
import time
from email.utils import parsedate_to_datetime

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own, of endpoints that cannot be reached
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
    TokenRetrievalError,
)
from s3transfer.exceptions import RetriesExceededError

from monitoring.storage.base import StorageError

S3_ERRORS = (BotoCoreError, ClientError, RetriesExceededError)

_MOST_SKEW = 300.0  # seconds; stores refuse more than 15 minutes
_MISSING = {"NoSuchKey", "NotFound", "404"}
_CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchUpload", "409", "412"}

_REFUSED = (
    "{endpoint} does not accept the credentials ({code}): check AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the role of this machine"
)
_FORBIDDEN = (
    "the credentials may not do this in bucket {bucket!r} at {endpoint} ({code}): they need "
    "s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload"
)
_ELSEWHERE = "bucket {bucket!r} is in another region: set AWS_REGION ({error})"
_BY_CODE = {
    "NoSuchBucket": (
        "there is no bucket {bucket!r} at {endpoint}: create it or change the storage URL"
    ),
    "RequestTimeTooSkewed": (
        "the clock of this machine is wrong, says {endpoint}{skew}: let it follow a time server"
    ),
    **dict.fromkeys(["AccessDenied", "AllAccessDisabled", "403"], _FORBIDDEN),
    **dict.fromkeys(["PermanentRedirect", "AuthorizationHeaderMalformed", "301"], _ELSEWHERE),
    **dict.fromkeys(
        ["InvalidAccessKeyId", "InvalidToken", "ExpiredToken", "401"],
        _REFUSED,
    ),
    "SignatureDoesNotMatch": (
        "{endpoint} computes another signature ({code}): check AWS_SECRET_ACCESS_KEY. If it is "
        "right, the store sees another request than was signed: check AWS_REGION, "
        "SPECTRAIN_S3_ADDRESSING (path or virtual), and proxies, which must leave the headers and "
        "the host name as they are; a store that does not know checksums in trailers needs "
        "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
    ),
    **dict.fromkeys(
        ["XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "MissingContentLength"],
        "{endpoint} does not understand how the data is sent ({code}): set "
        "AWS_REQUEST_CHECKSUM_CALCULATION=when_required, for a store that does not know checksums "
        "in trailers ({error})",
    ),
}
_BY_TYPE: list[tuple[tuple[type[Exception], ...], str]] = [
    (
        (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError,
         TokenRetrievalError),
        "there are no credentials for {endpoint}: set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or give this machine a role ({error})",
    ),
    (
        (SSLError,),
        "the certificate of {endpoint} is not trusted: set AWS_CA_BUNDLE to the file of its "
        "authority ({error})",
    ),
    ((ConnectionError, HTTPClientError), "cannot reach the object store at {endpoint}: {error}"),
]  # fmt: skip
_OTHER = "the object store at {endpoint} failed: {error}"


def status_of(error: Exception) -> int:
    """The HTTP status of the store's answer; 0 for none."""
    answer = error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
    return int(answer.get("HTTPStatusCode", 0))


def error_code(error: Exception) -> str:
    """The error code of the store, or the status of an answer without a body."""
    return str(error.response["Error"].get("Code", "")) if isinstance(error, ClientError) else ""


def is_missing(error: ClientError) -> bool:
    """Whether the object does not exist."""
    return error_code(error) in _MISSING


def is_passing(error: ClientError) -> bool:
    """Whether the store failed rather than refused, so that a retry may succeed."""
    status = status_of(error)
    return status >= 500 and status != 501  # 501: not implemented


def is_conflict(error: ClientError, *, conditional: bool) -> bool:
    """Whether another process changed the object, or aborted the upload, meanwhile."""
    return error_code(error) in _CONFLICTS or (conditional and is_missing(error))


def in_words(error: Exception, *, endpoint: str, bucket: str, key: str) -> Exception:
    """The exception for an error of boto3: `FileNotFoundError` or `StorageError`."""
    if isinstance(error, RetriesExceededError):
        error = error.last_exception
    code, skew = error_code(error), _skew(error)
    if code == "SignatureDoesNotMatch" and skew:
        code = "RequestTimeTooSkewed"
    if code in _MISSING:
        return FileNotFoundError(errno.ENOENT, f"no such file in bucket {bucket!r}", key)
    by_type = (words for types, words in _BY_TYPE if isinstance(error, types))
    words = _BY_CODE.get(code) or next(by_type, _OTHER)
    return StorageError(
        words.format(endpoint=endpoint, bucket=bucket, code=code, error=error, skew=skew)
    )


def _skew(error: Exception) -> str:
    """By how much this machine's clock differs from that of the store, in words; '' for little."""
    if not isinstance(error, ClientError):
        return ""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        ahead = time.time() - parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return ""
    if abs(ahead) < _MOST_SKEW:
        return ""
    return f" ({abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the store)"
