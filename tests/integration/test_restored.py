"""What is said of a program that does not use the library is true."""

from __future__ import annotations

import re

import pytest

from jobs.model.states import State
from tests.integration.one_worker import Bench, python
from worker.attempt.supervisor import supervise

OWN = """
import os, pathlib, sys
path = pathlib.Path("out/ckpt.pt")
if path.exists():
    print("Resuming from", path)
    sys.exit(0)
path.parent.mkdir()
path.write_bytes(b"x" * 3000)
os.utime(path, (1e9, 1e9))
sys.exit(75)
"""
NOTHING = "import os, sys; sys.exit(75 if os.environ['SPECTRAIN_ATTEMPT'] == '1' else 0)"


@pytest.mark.parametrize(
    ("program", "files", "line"),
    [
        (OWN, 1, r"starts with 1 file of the run, 3\.0 kB, the newest work/out/ckpt\.pt, \d+ d"),
        (NOTHING, 0, r"starts from the beginning$"),
    ],
)
def test_an_attempt_says_what_it_began_with_and_not_where_it_resumes(
    bench: Bench, program: str, files: int, line: str
) -> None:
    job = bench.run(python(program))
    again = bench.store.claim("default", "w")
    assert again is not None
    supervise(bench.service, again)
    job = bench.store.get(job.id)
    assert job.state is State.SUCCEEDED
    first, second = job.attempts
    assert (first.restored_files, first.restored_newest) == (0, None)
    assert second.restored_files == files
    output = bench.output(job)
    assert re.search(rf"attempt 2 {line}", output, re.M), output
    if files:
        assert (second.restored_bytes, second.restored_newest) == (3000, "work/out/ckpt.pt")
        assert second.restored_newest_at == 1e9
    for attempt in job.attempts:
        assert attempt.steps_recomputed is attempt.step_seconds is attempt.useful_seconds is None
    assert job.goodput_at(1e10) is None
