"""Finds the workspaces in storage that no job names."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator

from api.ops.garbage import Garbage
from jobs.store.jobs import JobStore
from monitoring.storage.base import Storage, StoredFile
from workspaces.layout import FOLDER

# A job that is about to be submitted names its workspace within this time, seconds.
_LEAST_AGE = 3600.0


def unneeded_workspaces(store: JobStore, storage: Storage, before: float) -> Iterator[Garbage]:
    """The archives that no job names, and uploads that nobody continued.

    Of those that nobody has sent or used since `before` (seconds since the epoch), and not within
    the last hour. Only where no run lacks its record: a record may name a workspace.
    """
    before = min(before, time.time() - _LEAST_AGE)
    found: dict[str, list[StoredFile]] = defaultdict(list)
    for file in storage.list(FOLDER):
        found[file.key.rpartition("/")[2].partition(".")[0]].append(file)
    if not found:
        return
    named = _named(store)  # after the list: what is newer is not in it
    for sha256, files in found.items():
        if sha256 in named or not all(_is_old(storage, file.key, before) for file in files):
            continue
        # The archive last: should this be interrupted, the rest goes next time.
        keys = sorted((file.key for file in files), key=lambda key: key.endswith(".tar.gz"))
        is_part = not any(key.endswith(".tar.gz") for key in keys)
        why = "an upload that was not completed" if is_part else "no job names it"
        yield Garbage(FOLDER, why, sum(file.size for file in files), tuple(keys))


def _is_old(storage: Storage, key: str, before: float) -> bool:
    """Whether a file is as old now; it may have been used since it was listed."""
    now = storage.stat(key)
    return now is None or now.modified < before


def _named(store: JobStore) -> set[str]:
    """The workspaces that jobs name, also in records of another version."""
    workspaces = (json.loads(spec).get("workspace") for spec in store.records.specs())
    return {one["sha256"] for one in workspaces if one}
