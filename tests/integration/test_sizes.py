"""How much a job may publish and start, and what a sparse file takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.model.states import State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.storage.base import Fence
from monitoring.storage.directory import FileStorage
from tests.integration.one_worker import Bench, python

MB = 1 << 20


def room(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize(
    "write",
    ["file.truncate(200 << 20); file.seek(100 << 20); file.write(b'middle')",
     "file.seek(150 << 20); file.write(b'middle' * 1000)"],
)  # fmt: skip
def test_a_sparse_file_takes_no_more_room_in_storage_and_when_it_comes_back(
    bench: Bench, write: str
) -> None:
    # Looked at in the second attempt, which has it from storage.
    script = (
        "import os, sys\n"
        "if os.environ['SPECTRAIN_ATTEMPT'] == '1':\n"
        f"    file = open('sparse.bin', 'wb'); {write}; file.close(); sys.exit(1)\n"
        "found = os.stat('sparse.bin'); data = open('sparse.bin', 'rb').read()\n"
        "print('bytes', found.st_blocks * 512, found.st_size, data.count(b'middle'))\n"
    )
    job = bench.claim(python(script, retry={"max_failures": 1, "backoff_seconds": 0}))
    bench.begin(job).join()
    again = bench.store.claim("default", "w")
    assert again is not None
    bench.begin(again).join()
    assert bench.store.get(job.id).state is State.SUCCEEDED, bench.output(job)
    stored = bench.files(job).root / "work/sparse.bin"
    assert stored.stat().st_size > 100 * MB
    assert room(stored) < 4 * MB
    (line,) = [one for one in bench.output(job).splitlines() if "] bytes " in one]
    took, size, count = map(int, line.split()[2:])
    assert (size, took < 4 * MB, count > 0) == (stored.stat().st_size, True, True)


def test_appended_zeros_leave_a_hole_and_the_same_bytes(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    data = b"begin" + bytes(5 * MB) + b"end"
    storage.append("run/log", 0, data[: 3 * MB], Fence("run", 1))
    storage.append("run/log", 3 * MB, data[3 * MB :], Fence("run", 1))
    assert storage.read("run/log") == data
    assert room(tmp_path / "run/log") < 4 * MB
    storage.append("run/log", 2, bytes(2 * MB), Fence("run", 1))
    assert storage.read("run/log") == b"be" + bytes(2 * MB)


def test_a_run_that_grows_beyond_the_limit_of_the_worker_is_ended(
    settings: Settings, store: JobStore
) -> None:
    bench = Bench(settings.model_copy(update={"run_bytes": MB, "grace_seconds": 2}), store)
    try:
        job = bench.run(
            python(
                "import time\nfor _ in range(600):\n"
                "    open('file', 'ab').write(bytes(100_000)); time.sleep(0.05)\n",
                retry={"max_failures": 0},
            )
        )
    finally:
        bench.service.messenger.close()
    assert job.state is State.FAILED
    assert "limit" in job.message
