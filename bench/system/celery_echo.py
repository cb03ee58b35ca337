"""A Celery app with one trivial task, the baseline of `python -m bench dispatch`."""

from __future__ import annotations

import os

from celery import Celery

VARIABLE = "BENCH_REDIS_URL"

app = Celery("echo", broker=os.environ.get(VARIABLE), backend=os.environ.get(VARIABLE))
app.conf.update(task_default_queue="bench-echo", broker_connection_retry_on_startup=True)


@app.task  # type: ignore[untyped-decorator]
def echo(value: int) -> int:
    """Returns the value."""
    return value
