"""`python -m worker.healthcheck`: the health check of a worker's container.

A worker is healthy when its process runs and the worker registry lists it as able to take jobs.
Docker does not restart an unhealthy container; `docker ps` shows the state. While Redis cannot be
reached the check passes, because a worker survives an outage of Redis.
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

_STOPPED = {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE}


def verdict(pids: Sequence[int], host: str, registry: Iterable[Worker]) -> str:
    """Why the worker with one of `pids` on `host` is unhealthy; empty if it is healthy."""
    if not pids:
        return "No worker process is running."
    names = tuple(f"{host}-{pid}-" for pid in pids)
    mine = [worker for worker in registry if worker.name.startswith(names)]
    if not mine:
        return "The worker registry does not list this worker."
    return next((w.reason for w in mine if w.state is WorkerState.UNHEALTHY), "")


def running_workers() -> list[int]:
    """The process ids of the workers on this machine, except stopped ones."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if line[1:] == python_module("worker")[1:] and process.info["status"] not in _STOPPED:
            found.append(process.pid)
    return found


def main() -> str:
    """Why this container's worker is unhealthy; empty if it is healthy."""
    settings = Settings()
    pids = running_workers()
    registry = WorkerRegistry(
        connect(settings), prefix=settings.redis_prefix, lease_seconds=settings.lease_seconds
    )
    try:
        return verdict(pids, socket.gethostname(), registry.workers() if pids else [])
    except STORE_AWAY as error:
        print(f"The worker is running; Redis cannot be reached: {error}")
        return ""


if __name__ == "__main__":
    run(main)
