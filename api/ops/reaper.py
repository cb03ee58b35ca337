"""`python -m api.ops.reaper`: a reaper in a process of its own, apart from API and workers."""

from __future__ import annotations

import logging
import os
import signal
import sys

from jobs.entry import run
from jobs.reaper.thread import Reaping
from jobs.settings import Settings
from machine.readable import hide
from monitoring.storage.base import StorageError, newest_change
from monitoring.storage.open import open_storage
from monitoring.storage.run_records import RunRecords


def reaping(settings: Settings) -> Reaping:
    """The reaper of this process, for the storage in `settings`."""
    storage = open_storage(settings.storage_url, **settings.storage_options)
    return Reaping(settings, lambda job: newest_change(storage, job.id), RunRecords(storage))


def main() -> None:
    """Runs the reaper until SIGTERM."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    hide()
    settings = Settings()
    os.umask(settings.umask_bits)
    alone = reaping(settings)
    signal.signal(signal.SIGTERM, lambda *_: alone.stop())
    alone.run()


if __name__ == "__main__":
    run(main, StorageError)
