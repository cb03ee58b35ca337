"""Fetches the workspace of a job into the cache of this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from jobs.model.workspace import Workspace
from monitoring.storage.base import Storage
from worker.cache.cache import Building, Cache, Held, Unwanted
from workspaces.layout import VARIABLE, WorkspaceError, archive_key, archive_limit, bytes_text
from workspaces.unpacking import DamagedError, unpack

KIND = "code"
_BLOCK = 1 << 20


class GoneError(WorkspaceError):
    """Storage no longer has a workspace that a job names."""


def fetch_code(
    cache: Cache,
    storage: Storage,
    workspace: Workspace,
    *,
    limit: int,
    wanted: Callable[[], bool],
    on_wait: Callable[[], None] = lambda: None,
) -> Held | None:
    """The unpacked workspace, as `workspaces.layout` describes it; None once it is not `wanted`.

    `limit`: of the size of its files, bytes. Raises `WorkspaceError` if the job is to blame, and
    `CacheFullError`, `OSError` and `StorageError`.
    """

    def check() -> None:
        if not wanted():
            raise Unwanted

    def build(building: Building) -> None:
        archive = building.path / "archive"
        _download(storage, workspace.sha256, archive, limit, check)
        _verify(archive, workspace.sha256, check)
        with archive.open("rb") as file:
            unpack(file, building.path, limit=limit, on_block=check)
        archive.unlink()

    # Not synced: it is fetched again after a loss of power.
    return cache.use(
        KIND, workspace.sha256, build, durable=False, private=True, wanted=wanted, on_wait=on_wait
    )


def _download(
    storage: Storage, sha256: str, target: Path, limit: int, check: Callable[[], None]
) -> None:
    key = archive_key(sha256)
    try:
        stored = storage.stat(key)
        if stored is None:
            raise FileNotFoundError(key)
        if stored.size > archive_limit(limit):
            raise WorkspaceError(
                f"the workspace's archive has {bytes_text(stored.size)}; {VARIABLE} of the worker "
                f"allows {bytes_text(limit)}"
            )
        storage.get(key, target, immutable=True, on_block=check)
    except FileNotFoundError:
        raise GoneError(
            f"the workspace {sha256[:12]}… is no longer in storage: submit the job again"
        ) from None


def _verify(archive: Path, sha256: str, check: Callable[[], None]) -> None:
    whole = hashlib.sha256()
    with archive.open("rb") as file:
        while block := file.read(_BLOCK):
            check()
            whole.update(block)
    if whole.hexdigest() != sha256:
        raise DamagedError(
            f"the workspace {sha256[:12]}… is damaged in storage: its SHA-256 is "
            f"{whole.hexdigest()[:12]}…; remove it there, and submit the job again"
        )
