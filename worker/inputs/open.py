"""Opens the source that the URL of an input names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from jobs.settings import Settings
from monitoring.storage.base import StorageError
from worker.inputs.directory import DirectorySource
from worker.inputs.source import InputError, Source


def open_source(url: str, settings: Settings, user: int | None = None) -> Source:
    """Opens `s3://bucket/prefix`, `file:///path` or `https://host/file`; sends no request.

    An object store is reached as the `settings` say; `user`: whose rights count on a disk, if not
    those of this process. Raises `InputError` and `StorageError`.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"{url!r} is no URL: {error}") from error
    if parts.scheme in {"http", "https"} and parts.netloc:
        # Imported on demand, as boto3 is: most jobs need neither.
        from worker.inputs.web import WebSource  # noqa: PLC0415

        return WebSource(url)
    if parts.query or parts.fragment:
        raise InputError(f"{url!r} has a ? or # in its path: write %3F or %23")
    path = unquote(parts.path)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and path.strip("/"):
        return DirectorySource(url, Path(path), user)
    if parts.scheme == "s3" and parts.netloc and path.strip("/"):
        try:
            from monitoring.storage.s3.options import S3Options  # noqa: PLC0415
            from worker.inputs.bucket import BucketSource  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise StorageError(
                f"the input {url} needs boto3, which the worker lacks: pip install 'spectrain[s3]'"
            ) from error

        options = S3Options.read(
            settings.s3_endpoint_url, settings.s3_addressing, settings.s3_extra_args
        )
        return BucketSource(url, parts.netloc, path, options)
    raise InputError(f"{url!r} is not of the form s3://bucket/prefix, file:///path or https://…")
