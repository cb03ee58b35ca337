"""Requests to one bucket of an S3 object store.

boto3 finds credentials, region and certificates, and its transfer manager sends large objects.
All methods raise the errors of boto3.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError

from monitoring.storage.lacks import Lacks
from monitoring.storage.s3 import versions
from monitoring.storage.s3.clients import open_clients
from monitoring.storage.s3.download import Download, Options
from monitoring.storage.s3.errors import S3_ERRORS, error_code, is_passing
from monitoring.storage.s3.lacks import (
    PART_CONDITIONS,
    PART_COPIES,
    SEVERAL_DELETIONS,
    may_be_lacking,
)
from monitoring.storage.s3.options import S3Options
from monitoring.storage.s3.parts import Range, copy_ranges, pieces, plan_of

WHOLE = 8 << 20  # bytes; a smaller file is sent in one request, a larger one in parts of this size
_READ_TRIES = 3
_ONE_REQUEST = 5 << 30  # the most bytes that one request copies


class NoPartCopyError(Exception):
    """The store may not be able to copy a part."""


@dataclass(frozen=True)
class Written:
    """The result of a write: ETag, size in bytes, and the bytes if they are worth keeping."""

    etag: str
    size: int
    body: bytes | None = None


class Bucket:
    """A bucket. In all methods `name` is the name of an object, with its prefix."""

    def __init__(self, bucket: str, options: S3Options) -> None:
        """Raises `StorageError` if boto3 cannot be used with the environment."""
        self.bucket = bucket
        self.lacks = Lacks(f"s3://{bucket}")
        self._options = options
        self._client, self._parts_client = open_clients(bucket, options)
        self._transfers = TransferConfig(
            multipart_threshold=WHOLE, multipart_chunksize=WHOLE, max_concurrency=8
        )
        # By object, a function to call before its multipart upload is completed.
        self._before_completion: dict[str, Callable[[], Options]] = {}
        for client in (self._client, self._parts_client):
            events = client.meta.events
            events.register(
                "before-parameter-build.s3.CompleteMultipartUpload", self._add_condition
            )
            events.register("after-call.s3.CreateMultipartUpload", self._note_begun)
        self._begun: dict[str, str] = {}  # unfinished uploads by id, and their objects
        self._uploading: set[str] = set()  # the objects that are being sent

    @property
    def endpoint(self) -> str:
        """The address of the store."""
        return str(self._client.meta.endpoint_url)

    # -- reading ----------------------------------------------------------------------------

    def head(self, name: str) -> Options:
        """Size, ETag, time and metadata of an object."""
        target = {"Bucket": self.bucket, "Key": name}
        try:
            return dict(self._client.head_object(**target))
        except ClientError as error:
            if not error_code(error).isdigit():
                raise
        # The answer to HEAD has no body: only GET tells a missing bucket from a missing object.
        self._client.get_object(**target, Range="bytes=0-0")["Body"].read()
        return dict(self._client.head_object(**target))

    def get(self, name: str, start: int = 0, size: int = -1) -> tuple[bytes, str]:
        """Bytes of an object and its ETag; empty if the range is beyond its end."""
        options = {}
        if start or size >= 0:
            options["Range"] = f"bytes={start}-{start + size - 1 if size >= 0 else ''}"
        tries_left = _READ_TRIES
        while True:
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=name, **options)
                return answer["Body"].read(), answer["ETag"]
            except ClientError as error:
                if error_code(error) in {"InvalidRange", "416"}:
                    return b"", ""
                raise
            except (HTTPClientError, IncompleteReadError):
                # boto3 retries requests, but not answers that break off in the middle.
                tries_left -= 1
                if not tries_left:
                    raise

    def download(self, name: str, head: Options, target: Path, on_block: Callable[[], None]) -> str:
        """Fetches the object that `head` describes; see `Download`."""
        source = {"Bucket": self.bucket, "Key": name}
        return Download(self._parts_client, source, head, on_block).to(target)

    def pages(self, prefix: str) -> Iterator[list[Options]]:
        """Key, Size, ETag and LastModified of all objects by name, in pages of up to 1000."""
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
            if found := page.get("Contents"):
                yield found

    def folders(self, prefix: str) -> Iterator[str]:
        """The names of the folders below a prefix."""
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket, Prefix=prefix, Delimiter="/"):
            yield from (found["Prefix"] for found in page.get("CommonPrefixes", []))

    def remarks(self) -> list[str]:
        """What an operator should know of the bucket, a sentence each."""
        return versions.remarks(self._client, self.bucket)

    def presign(self, name: str, seconds: float, disposition: str = "") -> str | None:
        """A URL with which anyone can download the object for `seconds`; None if none is enough."""
        if self._options.needs_headers:
            return None
        target = {"Bucket": self.bucket, "Key": name}
        if disposition:
            target["ResponseContentDisposition"] = disposition
        return str(self._client.generate_presigned_url("get_object", target, int(seconds)))

    # -- writing ----------------------------------------------------------------------------

    def put(
        self, name: str, body: bytes, condition: Options, metadata: dict[str, str] | None = None
    ) -> Written:
        """Writes an object in one request."""
        answer = self._client.put_object(
            Bucket=self.bucket, Key=name, Body=body, Metadata=metadata or {}, **condition
        )
        return Written(answer["ETag"], len(body))

    def upload(self, name: str, source: Path, before_completion: Callable[[], Options]) -> None:
        """Writes an object in parts; an upload that fails leaves nothing.

        `before_completion` returns the condition of the last request, or aborts by raising.
        """
        with (
            self._finishing(name),
            self._asking(name, before_completion),
            create_transfer_manager(self._parts_client, self._transfers) as manager,
        ):
            manager.upload(str(source), self.bucket, name).result()

    def copy(self, name: str, target: str, size: int) -> None:
        """Makes the store copy an object of `size` bytes, in parts if one request cannot."""
        source = {"Bucket": self.bucket, "Key": name}
        if size <= _ONE_REQUEST:
            self._client.copy_object(Bucket=self.bucket, Key=target, CopySource=source)
            return
        destination = {"Bucket": self.bucket, "Key": target}
        with self._finishing(target), self._asking(target, dict):
            begun = self._client.create_multipart_upload(**destination)
            upload = {**destination, "UploadId": begun["UploadId"]}
            parts = self._copy_parts(upload, source, copy_ranges(size), {})
            self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})

    def compose(
        self,
        name: str,
        offset: int,
        data: bytes,
        condition: Options,
        before_completion: Callable[[], Options],
    ) -> Written:
        """Replaces an object by its first `offset` bytes, copied by the store, and `data`.

        Raises `NoPartCopyError` if the store refuses to copy.
        """
        target = {"Bucket": self.bucket, "Key": name}
        unchanged = {f"CopySource{k}": v for k, v in condition.items() if k == "IfMatch"}
        plan = plan_of(offset)
        start, end = plan.rest
        rest = self.get(name, start, end - start)[0] if end > start else b""
        with self._finishing(name):
            begun = self._client.create_multipart_upload(**target)
            upload = {**target, "UploadId": begun["UploadId"]}
            parts = self._copy_parts(upload, target, plan.copied, unchanged)
            for number, piece in enumerate(pieces(rest + data, plan.size), len(parts) + 1):
                sent = self._client.upload_part(**upload, PartNumber=number, Body=piece)
                parts.append({"PartNumber": number, "ETag": sent["ETag"]})
            with self._asking(name, before_completion):
                answer = self._client.complete_multipart_upload(
                    **upload, MultipartUpload={"Parts": parts}
                )
        return Written(answer["ETag"], offset + len(data))

    def _copy_parts(
        self, upload: Options, source: Options, ranges: list[Range], condition: Options
    ) -> list[Options]:
        """Fills an upload with ranges of an object; the parts."""
        parts: list[Options] = []
        for number, (start, end) in enumerate(ranges, 1):
            copy: Options = {
                **upload, "PartNumber": number, "CopySource": source,
                "CopySourceRange": f"bytes={start}-{end - 1}",
            }  # fmt: skip
            try:
                try:
                    copied = self._client.upload_part_copy(**copy, **condition)
                except ClientError as error:
                    if not condition or not may_be_lacking(error):
                        raise
                    condition = {}  # the last request has one too
                    copied = self._client.upload_part_copy(**copy)
            except ClientError as error:
                if may_be_lacking(error):
                    raise NoPartCopyError from error
                raise
            parts.append({"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]})
        return parts

    def try_parts(self, source: str, name: str) -> None:
        """Makes an object of one part, a copy of a small object, on a condition; notes lacks.

        Raises the errors of boto3 only if there is another reason.
        """
        target = {"Bucket": self.bucket, "Key": name}
        condition: list[Options] = [{"IfNoneMatch": "*"}, {}]
        with self._finishing(name), self._asking(name, lambda: condition[0]):
            begun = self._client.create_multipart_upload(**target)
            upload = {**target, "UploadId": begun["UploadId"]}
            sent = self._client.upload_part(**upload, PartNumber=1, Body=b"sent")["ETag"]
            try:
                copied = self._client.upload_part_copy(
                    **upload, PartNumber=1, CopySource={"Bucket": self.bucket, "Key": source}
                )
                sent = copied["CopyPartResult"]["ETag"]
            except ClientError as error:
                if not may_be_lacking(error):
                    raise
                self.lacks.note(PART_COPIES)
            parts = {"Parts": [{"PartNumber": 1, "ETag": sent}]}
            try:
                self._client.complete_multipart_upload(**upload, MultipartUpload=parts)
            except ClientError as error:
                if not may_be_lacking(error):
                    raise
                condition.pop(0)
                self._client.complete_multipart_upload(**upload, MultipartUpload=parts)
                self.lacks.note(PART_CONDITIONS)

    def delete(self, name: str, condition: Options) -> None:
        """Removes an object, if it exists."""
        self._client.delete_object(Bucket=self.bucket, Key=name, **condition)

    def delete_all(self, names: list[str]) -> list[str]:
        """Removes up to 1000 objects; returns those that could not be removed, and why."""
        if SEVERAL_DELETIONS not in self.lacks:
            wanted = {"Objects": [{"Key": n} for n in names], "Quiet": True}
            try:
                answer = self._client.delete_objects(Bucket=self.bucket, Delete=wanted)
            except ClientError as error:
                if not may_be_lacking(error):
                    raise
            else:
                failed = answer.get("Errors", [])
                return [f"{one['Key']}: {one.get('Message')}" for one in failed]
        for name in names:
            self.delete(name, {})
        self.lacks.note(SEVERAL_DELETIONS)
        return []

    def abort_uploads(self, prefix: str) -> None:
        """Aborts unfinished multipart uploads, if the store can list them."""
        pages = self._client.get_paginator("list_multipart_uploads")
        try:
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
                for upload in page.get("Uploads", []):
                    self._abort(upload["Key"], upload["UploadId"])
        except ClientError as error:
            if is_passing(error):
                raise

    @contextlib.contextmanager
    def _finishing(self, name: str) -> Iterator[None]:
        """Aborts a failed upload, if necessary later, because its parts cost money."""
        self._abort_begun()
        self._uploading.add(name)
        try:
            yield
        except BaseException:
            self._uploading.discard(name)
            with contextlib.suppress(*S3_ERRORS):
                self._abort_begun()
            raise
        self._uploading.discard(name)
        self._begun = {id_: of for id_, of in self._begun.items() if of != name}

    def _abort_begun(self) -> None:
        for id_, name in list(self._begun.items()):
            if name not in self._uploading:  # by another thread
                self._abort(name, id_)
                self._begun.pop(id_, None)

    def _abort(self, name: str, id_: str) -> None:
        try:
            self._client.abort_multipart_upload(Bucket=self.bucket, Key=name, UploadId=id_)
        except ClientError as error:
            if error_code(error) != "NoSuchUpload":
                raise

    def _note_begun(self, parsed: Options, **_: Any) -> None:
        if "UploadId" in parsed:
            self._begun[parsed["UploadId"]] = parsed["Key"]

    @contextlib.contextmanager
    def _asking(self, name: str, before_completion: Callable[[], Options]) -> Iterator[None]:
        """Adds the condition: the transfer manager completes uploads itself and has none."""
        self._before_completion[name] = before_completion
        try:
            yield
        finally:
            del self._before_completion[name]

    def _add_condition(self, params: Options, **_: Any) -> None:
        params.update(self._before_completion[params["Key"]]())
