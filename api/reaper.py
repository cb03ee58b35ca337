"""`python -m api.reaper`: finds lost jobs and messages, in any number of processes."""

from __future__ import annotations

import logging
import signal
import sys
import threading

from jobs.errors import STORE_AWAY
from jobs.messages import Messenger
from jobs.reaper import Reaper
from jobs.record import Job
from jobs.settings import Settings, connect
from jobs.store import open_store
from monitoring.storage import Storage, StorageError, open_storage

log = logging.getLogger("reaper")

_PASS_SECONDS = 1.0


def sign_of_life(storage: Storage, job: Job) -> float | None:
    """When storage last saw something new of the job's run; None when it cannot tell."""
    try:
        return max((file.modified for file in storage.list(job.id)), default=None)
    except (OSError, StorageError) as error:
        log.warning("cannot look at the files of job %s: %s", job.id, error)
        return None


def main() -> None:
    """Runs the reaper until SIGTERM."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = Settings()
    store = open_store(connect(settings), settings)
    storage = open_storage(settings.storage_url, settings.s3_endpoint_url)
    reaper = Reaper(
        store,
        Messenger(settings, store),
        lambda job: sign_of_life(storage, job),
        eviction_min_seconds=settings.eviction_min_seconds,
    )
    away = False
    while not stop.wait(_PASS_SECONDS):
        try:
            reaper.run_once()
        except STORE_AWAY as error:
            if not away:
                log.warning("cannot reach Redis, waiting for it: %s", error)
            away = True
        except Exception:  # whatever it is, other jobs are still to be looked after
            log.exception("a pass failed; the next one follows")
        else:
            if away:
                log.info("Redis answers again")
            away = False


if __name__ == "__main__":
    main()
