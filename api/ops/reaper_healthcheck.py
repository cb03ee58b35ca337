"""`python -m api.ops.reaper_healthcheck`: whether some process looks for lost jobs.

That may be another process than the one of this container: one at a time does. While Redis is away
nobody can, and a reaper outlives that: it counts as well.
"""

from __future__ import annotations

from jobs.entry import run
from jobs.errors import STORE_AWAY
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore, open_store


def complaint(store: JobStore) -> str:
    """What is wrong, '' where the last pass was not long ago; raises one of `STORE_AWAY`."""
    reaped_at = store.reaped_at()
    if reaped_at is None:
        return "Nobody has looked for lost jobs yet."
    seconds = store.now() - reaped_at
    # Another process takes over from one that was killed within a lease.
    longest = max(30.0, 3 * store.lease_seconds)
    return "" if seconds <= longest else f"Nobody has looked for lost jobs for {seconds:.0f} s."


def main() -> str:
    """What to say of this installation, '' where it is well."""
    settings = Settings()
    try:
        return complaint(open_store(connect(settings), settings))
    except STORE_AWAY as error:
        print(f"Redis cannot be asked: {error}")
        return ""


if __name__ == "__main__":
    run(main)
