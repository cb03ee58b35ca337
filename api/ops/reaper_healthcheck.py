"""`python -m api.ops.reaper_healthcheck`: the health check of a reaper's container.

It passes while any process scans for lost jobs: only one reaper is active at a time, and it may run
elsewhere. While Redis cannot be reached the check passes, because a reaper survives an outage.
"""

from __future__ import annotations

from jobs.entry import run
from jobs.errors import STORE_AWAY
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore, open_store


def failure(store: JobStore) -> str:
    """Why the check fails; empty if the last scan was recent. Raises one of `STORE_AWAY`."""
    reaped_at = store.reaped_at()
    if reaped_at is None:
        return "No reaper has scanned for lost jobs yet."
    seconds = store.now() - reaped_at
    # If the active reaper is killed, another one takes over within a lease.
    longest = max(30.0, 3 * store.lease_seconds)
    return "" if seconds <= longest else f"No reaper has scanned for lost jobs for {seconds:.0f} s."


def main() -> str:
    """Why the check fails; empty if it passes."""
    settings = Settings()
    try:
        return failure(open_store(connect(settings), settings))
    except STORE_AWAY as error:
        print(f"Redis cannot be reached: {error}")
        return ""


if __name__ == "__main__":
    run(main)
