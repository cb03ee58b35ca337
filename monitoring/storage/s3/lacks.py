"""What object stores that speak S3 may lack, and how they say so.

What a refusal means is not always clear. So an operation is tried without the part in question, and
a store is found to lack it only when that succeeds.
"""

from __future__ import annotations

from botocore.exceptions import ClientError

from monitoring.storage.lacks import Lack
from monitoring.storage.s3.errors import error_code, status_of

_LATE = (
    "only the check of the fence protects {what}: an overtaken attempt can still complete the one "
    "write that it has begun"
)
CONDITIONS = Lack("no conditional writes", _LATE.format(what="a run"))
PART_CONDITIONS = Lack("no conditions for uploads in parts", _LATE.format(what="files above 8 MiB"))
MOST_RESENT = 256 << 20
PART_COPIES = Lack(
    "no copies of parts (UploadPartCopy)",
    "each addition to a file above 5 MiB sends all of it, and one above 256 MiB is sent as a whole",
)
COPIES = Lack(
    "no copies (CopyObject)", "what an older moment names is fetched and sent again to be kept"
)
SEVERAL_DELETIONS = Lack(
    "no deletion of several objects at once (DeleteObjects)", "they are removed one by one"
)

_STATUSES = {400, 405, 501}
# What these statuses mean with other codes: a damaged, late or wrong request.
_OTHERWISE = {
    "AuthorizationHeaderMalformed", "BadDigest", "EntityTooLarge", "EntityTooSmall", "ExpiredToken",
    "IncompleteBody", "InvalidBucketName", "InvalidDigest", "InvalidPart", "InvalidPartOrder",
    "InvalidToken", "KeyTooLongError", "RequestTimeout", "TokenRefreshRequired",
    "XAmzContentSHA256Mismatch",
}  # fmt: skip


def may_be_lacking(error: ClientError) -> bool:
    """Whether the store may have refused because it does not know what it was asked for."""
    return status_of(error) in _STATUSES and error_code(error) not in _OTHERWISE
