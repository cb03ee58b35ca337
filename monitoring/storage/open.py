"""Opens the storage that a URL names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from monitoring.storage.base import Storage, StorageError


def open_storage(
    url: str, s3_endpoint_url: str = "", s3_addressing: str = "", s3_extra_args: str = ""
) -> Storage:
    """Opens `file:///directory` or `s3://bucket/prefix`.

    `s3_endpoint_url` is the address of an S3 store other than Amazon's. The default is
    SPECTRAIN_S3_ENDPOINT_URL, then the configuration of boto3. `s3_addressing` says whether its
    requests name the bucket in the path or in the host name, and `s3_extra_args` is a JSON object
    of arguments for each request; by default SPECTRAIN_S3_ADDRESSING and SPECTRAIN_S3_EXTRA_ARGS.
    Raises `StorageError`.
    """
    # Backends are imported on demand: boto3 is slow to import and may not be installed.
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and path:
        from monitoring.storage.directory import FileStorage  # noqa: PLC0415

        return FileStorage(Path(path))
    if parts.scheme == "s3" and parts.netloc:
        try:
            from monitoring.storage.s3.options import S3Options  # noqa: PLC0415
            from monitoring.storage.s3.storage import S3Storage  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise StorageError(
                f"storage {url} needs boto3, which is not installed: pip install 'spectrain[s3]'"
            ) from error

        options = S3Options.read(s3_endpoint_url, s3_addressing, s3_extra_args)
        return S3Storage(parts.netloc, path.strip("/"), options)
    raise StorageError(
        f"storage URL {url!r} is not of the form file:///directory or s3://bucket/prefix"
    )
