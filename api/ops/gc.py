"""`spectrain gc`: removes unneeded files from storage and lists them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

from pydantic import ValidationError
from rich.table import Table

from api.local.redis_server import NoRedisServerError
from api.ops.garbage import Garbage, Stored, Unclear, garbage
from api.ops.old_workspaces import unneeded_workspaces
from api.ops.reindex import read_remains
from api.ops.settings import command_settings, command_storage
from api.render import console
from jobs.errors import STORE_AWAY, JobNotFoundError
from jobs.model.record import Job, is_job_id
from jobs.reaper.rebuild import CannotRebuildError, is_forgotten, rebuild
from jobs.settings import connect
from jobs.store.jobs import JobStore, open_store
from monitoring.disk import file_size
from monitoring.paths import commit_record, step_of
from monitoring.storage.base import (
    CONTENTS_FOLDER,
    MOMENTS_FOLDER,
    Storage,
    StorageError,
    StoredFile,
)
from monitoring.storage.moments import Moments
from workspaces.layout import FOLDER

_SHOWN = 50
_DAY = 86400.0


def find(store: JobStore, storage: Storage, before: float) -> Iterator[Garbage | Unclear]:
    """The garbage of each run, and the runs that are unclear."""
    for run in storage.runs():
        if is_job_id(run):
            try:
                job = store.get(run)
            except JobNotFoundError:
                job = None
            except ValidationError:
                continue  # a record of another version: its needs are unknown
            yield from garbage(_stored(storage, run, job), job, before)


def remove(storage: Storage, found: Garbage) -> None:
    """Removes the garbage; safe to repeat."""
    if not found.files:
        storage.delete_run(found.run)
    for key in found.files:
        storage.delete(key)


def _stored(storage: Storage, run: str, job: Job | None) -> Stored:
    files, links = storage.list(run), storage.links(run)
    stored = Stored(
        run, files, storage.leftovers(run), links, _committed(storage, files),
        unnamed=_unnamed(storage, run),
    )  # fmt: skip
    if job is not None:
        return stored
    remains = read_remains(storage, run)
    forgotten = is_forgotten(remains)
    try:
        rebuild(remains)
    except CannotRebuildError:
        return replace(stored, committed_at={}, forgotten=forgotten, rebuildable=False)
    return replace(stored, committed_at={}, forgotten=forgotten)


def _unnamed(storage: Storage, run: str) -> list[StoredFile]:
    """The moments of a run but the newest, and the kept contents that it does not name."""
    moments = Moments(storage, run)
    newest = moments.newest()
    if newest is None:
        return []
    older = [
        file for file in storage.list(f"{run}/{MOMENTS_FOLDER}") if file.key != moments.key(newest)
    ]
    contents = [
        file
        for file in storage.list(f"{run}/{CONTENTS_FOLDER}")
        if file.key.rpartition("/")[2] not in newest.contents
    ]
    return older + contents


def _committed(storage: Storage, files: Sequence[StoredFile]) -> dict[str, float]:
    """When each checkpoint with a record was committed; infinity if the record lacks a time."""
    keys = {file.key for file in files}
    found = {}
    for key in keys:
        record = commit_record(Path(key)).as_posix()
        if step_of(Path(key)) is not None and record in keys:
            try:
                found[key] = float(json.loads(storage.read(record))["time"])
            except (FileNotFoundError, KeyError, TypeError, ValueError):
                found[key] = float("inf")
    return found


def gc(*, data: Path | None, dry_run: bool, older_than: float, as_json: bool) -> int:
    """Removes the garbage, prints what was removed, and returns the exit code."""
    try:
        settings = command_settings(data)
        store = open_store(connect(settings), settings)
        storage = command_storage(settings)
        found: list[Garbage | Unclear] = []
        before = time.time() - older_than * _DAY
        for one in chain(find(store, storage, before), _workspaces(store, storage, before, found)):
            found.append(one)
            if isinstance(one, Garbage) and not dry_run:
                remove(storage, one)
    except (*STORE_AWAY, NoRedisServerError, OSError, StorageError) as error:
        print(f"Cannot continue: {error}", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        _show(found, dry_run=dry_run)
    return 1 if any(isinstance(one, Unclear) for one in found) else 0


def _workspaces(
    store: JobStore, storage: Storage, before: float, found: Sequence[Garbage | Unclear]
) -> Iterator[Garbage]:
    """The workspaces that no job names; none if there are runs whose jobs are unknown."""
    if not any(isinstance(one, Unclear) for one in found):
        yield from unneeded_workspaces(store, storage, before)


def _show(found: Sequence[Garbage | Unclear], *, dry_run: bool) -> None:
    removable = [one for one in found if isinstance(one, Garbage)]
    unclear = [one for one in found if isinstance(one, Unclear)]
    if removable:
        table = Table("run", "reason", "files", "bytes", box=None, pad_edge=False)
        for one in removable[:_SHOWN]:
            files = str(len(one.files)) if one.files else "the whole run"
            table.add_row(one.run, one.why, files, file_size(one.bytes))
        console().print(table)
        if len(removable) > _SHOWN:
            print(f"… and {len(removable) - _SHOWN} more")
    verb = "would be removed" if dry_run else "removed"
    total = file_size(sum(one.bytes for one in removable))
    runs = {one.run for one in removable} - {FOLDER}
    print(f"{total} {verb}, in {len(runs)} runs.")
    if unclear:
        for left in unclear[:5]:
            print(f"{left.run}: {left.why}", file=sys.stderr)
        print(
            f"Kept {len(unclear)} runs of which Redis has no record. If Redis was reset, run "
            "`spectrain reindex`.",
            file=sys.stderr,
        )
