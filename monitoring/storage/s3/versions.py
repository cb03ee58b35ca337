"""Whether a bucket keeps versions, and what bounds them."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

_RULE = "aws s3api put-bucket-lifecycle-configuration (docs/storage.md has the rule: {missing})"


def remarks(client: Any, bucket: str) -> list[str]:
    """What an operator should know of versions and unfinished uploads, a sentence each.

    Nothing where the store or the credentials do not tell.
    """
    try:
        status = client.get_bucket_versioning(Bucket=bucket).get("Status", "")
    except (BotoCoreError, ClientError):
        return []
    if status not in {"Enabled", "Suspended"}:
        return []
    try:
        answer = client.get_bucket_lifecycle_configuration(Bucket=bucket)
        rules = [rule for rule in answer.get("Rules", []) if rule.get("Status") == "Enabled"]
    except ClientError:  # none, or not told
        rules = []
    except BotoCoreError:
        return []
    wanted = ("NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload")
    missing = [name for name in wanted if not any(name in rule for rule in rules)]
    if not missing:
        return []
    return [
        f"bucket {bucket!r} keeps versions: each change of a file adds a copy of it, and no rule "
        f"bounds that. Set one with {_RULE.format(missing=' and '.join(missing))}"
    ]
