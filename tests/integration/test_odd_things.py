"""What a program may leave in the places that its worker looks at: nothing holds the worker up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import State
from monitoring.checkpoints.commit import CommitRecord
from monitoring.paths import RunPaths
from tests.integration.one_worker import Bench, python
from worker.files.restore import rewind
from worker.files.scratch import Restored

SECONDS = 60  # far more than any of these needs, and far less than an outage of storage lasts
BEGIN = """
import os, pathlib, shutil, sys, time
run = pathlib.Path(os.environ["SPECTRAIN_RUN_DIR"])
def in_place_of(path, kind):
    path = pathlib.Path(path)
    if path.is_dir() and not path.is_symlink(): shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "pipe": os.mkfifo(path)
    elif kind == "file": path.write_text("a file")
    else: path.symlink_to(kind)
"""
# Long enough for the worker to look at it, while the program runs.
WAIT = "\n(run / 'result').write_text('kept')\ntime.sleep(2.5)\n"


def ended(bench: Bench, spec: JobSpec) -> Job:
    """A job after all its attempts, none of which may hang."""
    job = bench.claim(spec)
    while True:
        thread = bench.begin(job)
        thread.join(SECONDS)
        assert not thread.is_alive(), f"the worker hangs: {bench.output(job)}"
        if bench.store.get(job.id).state is not State.QUEUED:
            return bench.store.get(job.id)
        again = bench.store.claim("default", "w")
        assert again is not None
        job = again


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
@pytest.mark.parametrize(
    "place",
    [
        "os.environ['SPECTRAIN_STEP_FILE']",
        "run.parent / 'output'",
        "run / 'logs/metrics.jsonl'",
        "run / 'checkpoints/checkpoint_step_1.pt.json'",
        "run / 'data.db'",
        *(f"run.parent / {name!r}" for name in ("moment", "staging", "rows", "adoptions")),
    ],
)
def test_a_pipe_or_an_endless_file_holds_nobody_up(bench: Bench, place: str, kind: str) -> None:
    script = (
        f"{BEGIN}print('begins', flush=True)\n"
        # Beside these names the worker looks at the one in question.
        "(run / 'checkpoints/checkpoint_step_1.pt').write_bytes(bytes(100))\n"
        "(run / 'data.db-wal').write_bytes(bytes(100))\n"
        f"in_place_of({place}, {kind!r}){WAIT}"
    )
    job = ended(bench, python(script))
    assert job.state is State.SUCCEEDED, bench.output(job)
    assert (bench.files(job).root / "result").read_text() == "kept"


@pytest.mark.parametrize("kind", ["file", "/nowhere", "/"])
@pytest.mark.parametrize("name", ["work", "logs", "checkpoints", "visualizations", "output"])
def test_what_takes_the_place_of_a_directory_is_refused_by_name(
    bench: Bench, name: str, kind: str
) -> None:
    script = (
        f"{BEGIN}os.chdir('/')\n"
        "if os.environ['SPECTRAIN_ATTEMPT'] == '1':\n"
        f"    in_place_of(run / {name!r}, {kind!r}); sys.exit(1)\n"
        f"assert (run / {name!r}).is_dir() and not (run / {name!r}).is_symlink()\n"
    )
    job = ended(bench, python(script, retry={"max_failures": 1, "backoff_seconds": 0}))
    assert job.state is State.SUCCEEDED, bench.output(job)
    why = f"not saved: {name}: the service needs a directory of this name"
    assert why in bench.output(job)
    stored = [path.name for path in bench.files(job).root.iterdir()]
    assert set(stored) <= {"attempts", "job.json", "logs", ".fence", ".moments", ".contents"}


def test_folders_without_end_are_refused_by_name_and_removed(bench: Bench) -> None:
    script = (
        f"{BEGIN}"
        "for number in range(2500): os.mkdir('d'); os.chdir('d'); open('file', 'w').close()\n"
        "(run / 'result').write_text('kept')\n"
    )
    job = ended(bench, python(script))
    assert job.state is State.SUCCEEDED, bench.output(job)
    assert "cannot be saved: work/d/d" in bench.output(job)
    assert "it has too many folders above it" in bench.output(job)
    assert (bench.files(job).root / "result").read_text() == "kept"
    assert not (bench.settings.scratch_dir / job.id).exists()


@pytest.mark.parametrize("name", ["huge.bin", "huge.log"])
def test_a_hole_of_a_terabyte_is_not_read(bench: Bench, name: str) -> None:
    script = (
        f"{BEGIN}"
        f"file = open(run / {name!r}, 'ab'); file.write(b'begin'); file.flush(); time.sleep(2.5)\n"
        "file.truncate(1 << 40); file.write(b'end'); file.close()\n"
    )
    job = ended(bench, python(script))
    assert job.state is State.SUCCEEDED, bench.output(job)
    stored = bench.files(job).root / name
    assert stored.stat().st_size == (1 << 40) + 3
    assert stored.stat().st_blocks * 512 < 1 << 20


def test_rows_behind_a_link_are_not_moved_into_the_run(tmp_path: Path) -> None:
    run, others = RunPaths(tmp_path / "run"), tmp_path / "others.jsonl"
    run.logs.mkdir(parents=True)
    rows = "".join(f'{{"step": {step}}}\n' for step in range(9))
    others.write_text(rows)
    run.metrics.symlink_to(others)
    record = CommitRecord(step=2, size=1, checksum="crc32:00000000", time=1.0, attempt=1)
    rewind(run, Restored(record, {}, {}, last_step=8), attempt=2)
    assert [path.name for path in run.logs.iterdir()] == ["metrics.jsonl"]
    assert others.read_text() == rows
    # What is the run's own is moved.
    run.metrics.unlink()
    os.link(others, run.metrics)
    rewind(run, Restored(record, {}, {}, last_step=8), attempt=2)
    assert run.superseded_metrics.exists()
