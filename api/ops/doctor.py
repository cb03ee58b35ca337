"""`spectrain doctor`: checks everything that the service needs, from this machine."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from redis import Redis

from api.client.client import Client
from api.client.transport import ApiError, Unreachable
from api.hosts import is_loopback
from api.local.redis_server import NoRedisServerError
from api.ops.settings import command_storage, named_settings
from jobs.checks import Checks, Finding
from jobs.errors import STORE_AWAY
from jobs.model.record import is_job_id
from jobs.model.workers import Worker, WorkerState
from jobs.settings import Settings, connect
from jobs.store.records import RawRecords
from jobs.store.registry import WorkerRegistry
from machine.text import plain
from monitoring.storage.base import Storage
from monitoring.storage.probe import StorageProbe

_ASKED = "On its machines, with their settings, `spectrain doctor` checks more."
_NOBODY = "`spectrain up` starts a whole service here, with a Redis of its own."


def findings(settings: Settings) -> Iterator[Finding]:
    """One finding per part, in the order in which to fix them; raises `SettingsError`."""
    redis = connect(settings)
    storage = command_storage(settings)
    checks = Checks(redis, settings, StorageProbe(storage, settings.storage_url))
    found = checks.run()
    healthy = {one.part for one in found if not one.problem}
    if "storage" in healthy:
        found += checks.try_out(thoroughly=True)
    checks.leave()
    yield from found
    yield Finding("scratch disk", _check_scratch(settings.scratch_dir))
    if {"redis", "storage"} <= healthy:
        yield Finding("records", _check_records(redis, settings, storage))
        yield from _check_workers(redis, settings)


def _check_scratch(directory: Path) -> str:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        return (
            f"cannot write to {directory} ({error.strerror}): free disk space, or set "
            "SPECTRAIN_SCRATCH_DIR to a local disk"
        )
    return ""


def _check_records(redis: Redis, settings: Settings, storage: Storage) -> str:
    if RawRecords(redis, settings.redis_prefix).any():
        return ""
    runs = sum(1 for run in storage.runs() if is_job_id(run))
    if not runs:
        return ""
    return (
        f"Redis has no record of any job, but storage holds {runs} runs (was Redis reset?): "
        "`spectrain reindex` restores the records"
    )


def _check_workers(redis: Redis, settings: Settings) -> Iterator[Finding]:
    registry = WorkerRegistry(
        redis, prefix=settings.redis_prefix, lease_seconds=settings.lease_seconds
    )
    try:
        workers = registry.workers()
    except STORE_AWAY as error:
        yield Finding("workers", str(error))
        return
    yield from _judge(workers)


def _judge(workers: Sequence[Worker]) -> Iterator[Finding]:
    if not workers:
        yield Finding("workers", "no worker is running: start `spectrain worker`, or scale a pool")
    for worker in workers:
        bad = worker.reason if worker.state is WorkerState.UNHEALTHY else ""
        yield Finding(f"worker {worker.name}", bad)


def doctor(
    *,
    data: Path | None,
    named: bool = False,
    connect: Callable[[], Client] = lambda: Client(patience=0),
) -> int:
    """Prints one line per finding; returns 1 if there is a problem.

    Without settings that name a Redis or a storage it asks the service that `connect` leads to,
    which is `named` or may run here. Raises `SettingsError`.
    """
    with connect() as client:
        elsewhere = named and not is_loopback(urlsplit(client.url).hostname or "")
        try:
            settings = named_settings(data, or_here=not elsewhere)
        except NoRedisServerError as error:
            print(error, file=sys.stderr)
            return 1
        found: Iterable[Finding] = findings(settings or Settings())
        hint = ""
        if settings is None:
            try:
                found, hint = list(_asked(client)), _ASKED
                print(f"The service at {client.url}, as it sees itself:", file=sys.stderr)
            except Unreachable as error:
                if elsewhere:
                    print(f"Error: {error}", file=sys.stderr)
                    return 1
                hint = _NOBODY
        return _report(found, hint)


def _report(found: Iterable[Finding], hint: str) -> int:
    bad = 0
    for one in found:
        print(plain(_line(one)))
        bad += bool(one.problem)
    if hint:
        print(hint)
    print(f"{bad} to fix." if bad else "No problems found.")
    return 1 if bad else 0


def _asked(client: Client) -> Iterator[Finding]:
    """What a service says of itself; raises `Unreachable`."""
    try:
        yield from map(Finding, client.readiness().checks)
    except ApiError as error:
        yield Finding("service", str(error))
        return
    try:
        yield from _judge(client.workers())
    except ApiError as error:
        yield Finding("workers", str(error))


def _line(found: Finding) -> str:
    if found.problem:
        return f"bad  {found.part}: {found.problem}"
    return f"note {found.part}: {found.note}" if found.note else f"ok   {found.part}"
