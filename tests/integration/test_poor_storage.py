"""A worker runs, stops and resumes a job whose storage lacks links, locks and directory syncs."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from jobs.model.states import State
from jobs.settings import Settings
from monitoring.storage.base import LOCK_NAME
from tests.integration.one_worker import Bench, python
from worker.attempt.supervisor import supervise

SCRIPT = """
import os, pathlib, sys
run = pathlib.Path(os.environ["SPECTRAIN_RUN_DIR"])
count = int((run / "count").read_text()) if (run / "count").exists() else 0
assert count == 0 or (run / "last").read_text() == (run / "data").read_text() == str(count)
(run / "count").write_text(str(count + 1))
(run / "data").write_text(str(count + 1))
(run / "last").unlink(missing_ok=True)
(run / "last").symlink_to("data")
for number in range(20):
    (run / f"part-{number}").write_text(f"{count} {number}")
sys.exit(3 if count == 0 else 0)
"""


@pytest.fixture
def poor(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of storage, in which system calls fail as on such a file system."""
    root = Path(settings.storage_url.removeprefix("file://"))

    def is_inside(path: Any) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(root.resolve())

    def refusing(call: Any, number: int, place: Any) -> Any:
        def refuse(*args: Any, **options: Any) -> Any:
            if is_inside(place(*args)):
                raise OSError(number, os.strerror(number))
            return call(*args, **options)

        return refuse

    def of_descriptor(descriptor: Any, *_: Any) -> str:
        return f"/proc/self/fd/{descriptor}"

    fsync = os.fsync

    def fsync_of_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) and is_inside(of_descriptor(descriptor)):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    flock = refusing(fcntl.flock, errno.ENOLCK, of_descriptor)
    monkeypatch.setattr(os, "link", refusing(os.link, errno.EPERM, lambda _, target: target))
    monkeypatch.setattr(
        os, "symlink", refusing(os.symlink, errno.EOPNOTSUPP, lambda _, link, *more: link)
    )
    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(os, "fsync", fsync_of_files)
    return root


def test_a_job_resumes_from_a_file_system_that_lacks_all_luxury(poor: Path, bench: Bench) -> None:
    job = bench.run(python(SCRIPT))
    assert job.state is State.QUEUED, job.message
    claimed = bench.store.claim("default", "w")
    assert claimed is not None
    supervise(bench.service, claimed)
    job = bench.store.get(job.id)
    assert job.state is State.SUCCEEDED, bench.output(job)
    assert bench.storage.links(job.id) == {f"{job.id}/last": "data"}
    assert bench.storage.read(f"{job.id}/last") == b"2"
    assert bench.storage.read(f"{job.id}/part-7") == b"1 7"
    assert not (poor / job.id / "last").is_symlink()
    assert not (poor / job.id / LOCK_NAME).exists()
    assert len(bench.storage.lacks.sentences()) == 4
