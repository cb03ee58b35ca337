"""`python -m worker.healthcheck`: whether this container's worker is well, for its health check.

It is when its process runs and the registry knows it as one that may take jobs. Nothing restarts a
worker for that: `docker ps` shows it. One that cannot be asked after, for Redis is away, is taken
for well: a worker outlives that.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence

import psutil

from jobs.entry import run
from jobs.errors import STORE_AWAY
from jobs.model.workers import Worker, WorkerState
from jobs.settings import Settings, connect
from jobs.store.registry import WorkerRegistry
from machine.python import python_module

_STANDS = {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE}


def verdict(pids: Sequence[int], host: str, registry: Iterable[Worker]) -> str:
    """What is wrong with the worker that has one of `pids` on `host`, '' where nothing is."""
    if not pids:
        return "No worker process runs here."
    names = tuple(f"{host}-{pid}-" for pid in pids)
    mine = [worker for worker in registry if worker.name.startswith(names)]
    if not mine:
        return "The registry of workers does not know this one."
    return next((w.reason for w in mine if w.state is WorkerState.UNHEALTHY), "")


def running_workers() -> list[int]:
    """The worker processes that are here, but for those that only stand still."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if line[1:] == python_module("worker")[1:] and process.info["status"] not in _STANDS:
            found.append(process.pid)
    return found


def main() -> str:
    """What to say of the worker of this container, '' where it is well."""
    settings = Settings()
    pids = running_workers()
    registry = WorkerRegistry(
        connect(settings), prefix=settings.redis_prefix, lease_seconds=settings.lease_seconds
    )
    try:
        return verdict(pids, socket.gethostname(), registry.workers() if pids else [])
    except STORE_AWAY as error:
        print(f"The worker runs; Redis cannot be asked: {error}")
        return ""


if __name__ == "__main__":
    run(main)
