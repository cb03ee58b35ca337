"""`python -m worker`: one worker process."""

from machine.readable import hide

hide()  # as the first thing: the imports take a while, and jobs of this machine may look on

# ruff: noqa: E402
from jobs.entry import run
from monitoring.storage.base import StorageError
from worker.app import main
from worker.launch.prepare import CannotLaunchError
from worker.launch.user import JobUserError

if __name__ == "__main__":
    run(main, CannotLaunchError, JobUserError, StorageError)
