"""`python -m worker`: one worker process."""

from jobs.entry import run
from monitoring.storage.base import StorageError
from worker.app import main
from worker.launch.prepare import CannotLaunchError

if __name__ == "__main__":
    run(main, CannotLaunchError, StorageError)
