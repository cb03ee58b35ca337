"""Workers and pools as tables."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from api.render.tables import table_of
from jobs.model.workers import Pool, Worker, WorkerState
from machine.text import duration, plain

_STYLES = {
    WorkerState.IDLE: "green",
    WorkerState.BUSY: "cyan",
    WorkerState.DRAINING: "yellow",
    WorkerState.UNHEALTHY: "red",
}


def worker_table(workers: Iterable[Worker], *, now: float | None = None) -> Table:
    """A table with one line per worker."""
    now = time.time() if now is None else now
    table = table_of("worker", "pool", "state", "for", "job", "GPUs", "reason",
                     first_to_go=("for", "GPUs", "pool"))  # fmt: skip
    for worker in workers:
        table.add_row(
            worker.name,
            worker.pool,
            Text(worker.state, style=_STYLES[worker.state]),
            duration(now - worker.since),
            worker.job or "",
            _gpus(worker.gpus),
            plain(worker.reason),
        )
    return table


def pool_table(pools: Iterable[Pool]) -> Table:
    """A table with one line per pool."""
    table = table_of("pool", *WorkerState, "queued", "delayed", "running",
                     first_to_go=("delayed", "draining", "unhealthy"))  # fmt: skip
    for pool in pools:
        workers = [str(pool.workers.get(state, 0)) for state in WorkerState]
        jobs = (pool.queued, pool.delayed, pool.running)
        table.add_row(pool.name, *workers, *(str(number) for number in jobs))
    return table


def _gpus(names: list[str]) -> str:
    """`2 NVIDIA H100, 1 NVIDIA L4`, or `none`."""
    return ", ".join(f"{count} {name}" for name, count in Counter(names).items()) or "none"
