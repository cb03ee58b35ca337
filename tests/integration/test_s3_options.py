"""Options of an object store, what doctor says of a bucket, and errors that name the right cure."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from api.ops.doctor import doctor
from monitoring.storage.base import Fence, StorageError
from monitoring.storage.open import open_storage
from monitoring.storage.s3 import versions
from monitoring.storage.s3.errors import in_words
from monitoring.storage.s3.storage import S3Storage
from monitoring.storage.trial import try_out

FENCE = Fence("run", 1)
MB = 1 << 20


def opened(url: str, **options: str) -> S3Storage:
    storage = open_storage(url, **options)
    assert isinstance(storage, S3Storage)
    return storage


def sent_by(storage: S3Storage) -> dict[str, list[dict[str, str]]]:
    """The headers of the requests that leave from now on, by operation."""
    sent: dict[str, list[dict[str, str]]] = {}

    def note(request: Any, event_name: str, **_: Any) -> None:
        headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else str(value)
            for name, value in request.headers.items()
        }
        sent.setdefault(event_name.rpartition(".")[2], []).append(headers)

    for client in (storage._bucket._client, storage._bucket._parts_client):
        client.meta.events.register("before-send.s3", note)
    return sent


# -- arguments of each request ----------------------------------------------------------------

KMS = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1", "StorageClass": "STANDARD_IA"}


def test_arguments_for_encryption_go_with_every_write(s3_url: str, tmp_path: Path) -> None:
    storage = opened(s3_url, s3_extra_args=json.dumps(KMS))
    sent = sent_by(storage)
    large = tmp_path / "large"
    large.write_bytes(b"x" * 9 * MB)
    storage.put("run/large", large, FENCE)
    try_out(storage, "trial", thoroughly=True)
    for operation in ("PutObject", "CreateMultipartUpload", "CopyObject"):
        assert sent[operation]
        for headers in sent[operation]:
            assert headers["x-amz-server-side-encryption"] == "aws:kms"
            assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
            assert headers["x-amz-storage-class"] == "STANDARD_IA"
    for operation in ("UploadPart", "GetObject", "HeadObject", "DeleteObject"):
        assert not any("x-amz-server-side-encryption" in headers for headers in sent[operation])
    assert storage.presign("run/large", 60) is not None


def test_a_key_of_the_customer_goes_with_reads_and_copies_too(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = secrets.token_hex(16)
    monkeypatch.setenv("SPECTRAIN_S3_EXTRA_ARGS", json.dumps({"SSECustomerKey": key}))
    storage = opened(s3_url)
    sent = sent_by(storage)
    try_out(storage, "trial", thoroughly=True)
    name = "server-side-encryption-customer-key-md5"
    for operation in ("PutObject", "CreateMultipartUpload", "UploadPart", "GetObject", "HeadObject",
                      "CopyObject", "UploadPartCopy"):  # fmt: skip
        assert all(f"x-amz-{name}" in headers for headers in sent[operation]), operation
    for operation in ("CopyObject", "UploadPartCopy"):
        assert all(f"x-amz-copy-source-{name}" in headers for headers in sent[operation]), operation
    storage.append("run/log", 0, b"one", FENCE)
    assert storage.presign("run/log", 60) is None  # the key would have to go with the URL


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "is no JSON object"), ('["AES256"]', "is no JSON object"),
     ('{"Encryption": "x"}', "has 'Encryption', which is no option of a write"),
     ('{"Body": "x"}', "has 'Body', which is no option of a write"),
     ('{"IfMatch": "x"}', "has 'IfMatch', which is no option of a write")],
)  # fmt: skip
def test_arguments_that_no_write_knows_are_refused_by_name(
    s3_url: str, text: str, why: str
) -> None:
    with pytest.raises(StorageError, match=f"SPECTRAIN_S3_EXTRA_ARGS {why}"):
        opened(s3_url, s3_extra_args=text)


# -- the address ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addressing", "beginning"),
    [("path", "https://s3.store.test/runs/"), ("virtual", "https://runs.s3.store.test/"),
     ("", "https://s3.store.test/runs/")],
)  # fmt: skip
def test_the_bucket_is_named_where_the_store_wants_it(
    addressing: str, beginning: str, s3_url: str
) -> None:
    storage = opened(s3_url, s3_endpoint_url="https://s3.store.test", s3_addressing=addressing)
    url = storage._bucket.presign("a", 60)
    assert url is not None
    assert url.startswith(beginning)


def test_another_way_to_name_the_bucket_is_refused(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECTRAIN_S3_ADDRESSING", "host")
    with pytest.raises(StorageError, match="SPECTRAIN_S3_ADDRESSING is 'host'; allowed: path, vir"):
        opened(s3_url)


# -- versions ---------------------------------------------------------------------------------

RULES = {
    "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
}


def test_a_bucket_with_versions_is_named_until_rules_bound_them(s3_url: str) -> None:
    client = opened(s3_url)._bucket._client
    bucket = f"versions-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=bucket)
    assert versions.remarks(client, bucket) == []
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    (remark,) = versions.remarks(client, bucket)
    assert "keeps versions" in remark
    assert "NoncurrentVersionExpiration and AbortIncompleteMultipartUpload" in remark
    rule: dict[str, Any] = {"ID": "a", "Status": "Enabled", "Filter": {"Prefix": ""}}
    for name, value in RULES.items():
        rule[name] = value
        client.put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration={"Rules": [rule]}
        )
    assert versions.remarks(client, bucket) == []


def test_credentials_that_may_not_ask_for_versions_are_no_problem(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = opened(s3_url)._bucket._client

    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "GetBucketVersioning")

    monkeypatch.setattr(client, "get_bucket_versioning", refuse)
    assert versions.remarks(client, "runs") == []


# -- errors -----------------------------------------------------------------------------------


def refused(code: str, *, date: float | None = None) -> str:
    answer: Any = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {
            "HTTPStatusCode": 403,
            "HTTPHeaders": {} if date is None else {"date": formatdate(date, usegmt=True)},
        },
    }
    error = ClientError(answer, "PutObject")
    return str(in_words(error, endpoint="https://s3", bucket="runs", key="a"))


def test_a_signature_that_differs_has_more_causes_than_a_wrong_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.time", lambda: 1e9)
    for date in (None, 1e9 - 30):
        words = refused("SignatureDoesNotMatch", date=date)
        for cause in ("AWS_SECRET_ACCESS_KEY", "AWS_REGION", "SPECTRAIN_S3_ADDRESSING", "proxies",
                      "AWS_REQUEST_CHECKSUM_CALCULATION"):  # fmt: skip
            assert cause in words
    words = refused("SignatureDoesNotMatch", date=1e9 - 1000)
    assert words == (
        "the clock of this machine is wrong, says https://s3 (1000 s ahead of the store): let it "
        "follow a time server"
    )
    assert "behind" in refused("RequestTimeTooSkewed", date=1e9 + 1000)
    assert "AWS_REQUEST_CHECKSUM_CALCULATION" in refused("XAmzContentSHA256Mismatch")


# -- doctor -----------------------------------------------------------------------------------


def test_doctor_notes_what_storage_lacks_and_cleans_up(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], refuse_links: Callable[[], None],
) -> None:  # fmt: skip
    store = tmp_path / "store"
    store.mkdir()
    monkeypatch.setenv("SPECTRAIN_REDIS_URL", redis_url)
    monkeypatch.setenv("SPECTRAIN_STORAGE_URL", store.as_uri())
    monkeypatch.setenv("SPECTRAIN_SCRATCH_DIR", str(tmp_path / "scratch"))
    doctor(data=None)
    assert "note" not in capsys.readouterr().out
    refuse_links()
    doctor(data=None)
    lines = capsys.readouterr().out.splitlines()
    assert "ok   what jobs do in storage" in lines
    notes = [line for line in lines if line.startswith("note storage: no ")]
    assert [note.split(":")[1] for note in notes] == [" no hard links", " no symbolic links"]
    assert [path for path in store.rglob("*") if path.is_file()] == []


@pytest.fixture
def refuse_links(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(95, "Operation not supported")

    def refuse() -> None:
        monkeypatch.setattr("os.link", fails)
        monkeypatch.setattr("os.symlink", fails)

    return refuse
