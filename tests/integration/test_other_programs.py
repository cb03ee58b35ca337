"""Programs that have never heard of this library go on from their own last whole checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request, State
from monitoring.storage.run_files import RunFiles
from tests.integration.one_worker import Bench, python
from worker.attempt.supervisor import supervise

Wait = Callable[..., Any]

# What each program below has: `attempt`, and `due(step)`, which ends the first attempt as the test
# asks it to, once what was there a moment ago has had the time to settle.
COMMON = """
import json, os, pathlib, shutil, signal, sqlite3, time
attempt = int(os.environ["SPECTRAIN_ATTEMPT"])
END = os.environ["END"]
def pause(step):
    if attempt == 1 and step == 12 and END != "never":
        time.sleep(5)
def due(step):
    if attempt == 1 and step == 12 and END != "never":
        time.sleep(1)
        print("now", flush=True)
        return True
def end(write=lambda: None):
    if END == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while True:  # until the test has read what was printed
        write()
        time.sleep(0.1)
"""

# One checkpoint in `out/`, rewritten in place, as nanoGPT does.
ONE_FILE = """
path = pathlib.Path("out/ckpt.pt")
path.parent.mkdir(exist_ok=True)
start, total = 0, 0
if path.exists():
    data = path.read_bytes()
    assert data.startswith(b"PK\\x03\\x04") and data.endswith(b"end"), "the checkpoint is torn"
    start, total = json.loads(data[4:-3])
print("from", start, flush=True)
for step in range(start + 1, 21):
    pause(step)
    total += step * step
    if step % 4 == 0:
        text = json.dumps([step, total]).encode()
        with path.open("wb") as file:
            file.write(b"PK\\x03\\x04" + text[:2])
            file.flush()
            if due(step):
                end()
            file.write(text[2:] + b"end")
print("total", total, flush=True)
"""

# A folder for each checkpoint, two are kept, and a marker while one is written: as Trainers do.
FOLDERS = """
root = pathlib.Path("results")
root.mkdir(exist_ok=True)
start, total = 0, 0
found = sorted(root.glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
if found:
    assert not (found[-1] / "incomplete.txt").exists(), "a marker came back"
    start, total = json.loads((found[-1] / "state.json").read_text())
    assert (found[-1] / "weights.bin").read_text() == str(total), "two moments"
print("from", start, flush=True)
for step in range(start + 1, 21):
    pause(step)
    total += step * step
    if step % 4 == 0:
        folder = root / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "incomplete.txt").touch()
        (folder / "state.json").write_text(json.dumps([step, total]))
        if due(step):
            end(lambda: (folder / "weights.bin").write_text(f"half {time.time()}"))
        (folder / "weights.bin").write_text(str(total))
        (folder / "incomplete.txt").unlink()
        for old in sorted(root.glob("checkpoint-*"), key=lambda p: int(p.name[11:]))[:-2]:
            shutil.rmtree(old)
print("total", total, flush=True)
"""

# A study in SQLite: its journal is there in the middle of a transaction.
STUDY = """
base = sqlite3.connect("study.db")
base.execute("create table if not exists trials (step integer, value integer)")
start, total = base.execute("select count(*), coalesce(sum(value), 0) from trials").fetchone()
print("from", start, flush=True)
for step in range(start + 1, 21):
    pause(step)
    base.execute("insert into trials values (?, ?)", (step, step * step))
    if due(step):
        base.execute("pragma cache_spill")
        end()
    base.commit()
    time.sleep(0.02)
total = base.execute("select sum(value) from trials").fetchone()[0]
base.close()
print("total", total, flush=True)
"""

# Writes to another name and links the last one.
LINKED = """
root = pathlib.Path(os.environ["SPECTRAIN_RUN_DIR"], "models")
root.mkdir(exist_ok=True)
last = root / "last.ckpt"
start, total = json.loads(last.read_text()) if last.exists() else (0, 0)
print("from", start, flush=True)
for step in range(start + 1, 21):
    pause(step)
    total += step * step
    if step % 4 == 0:
        draft = root / ".draft"
        draft.write_text(json.dumps([step, total])[:3])
        if due(step):
            end()
        draft.write_text(json.dumps([step, total]))
        draft.rename(root / f"epoch-{step}.ckpt")
        last.unlink(missing_ok=True)
        last.symlink_to(f"epoch-{step}.ckpt")
        for old in sorted(root.glob("epoch-*"), key=lambda p: p.stat().st_mtime_ns)[:-2]:
            old.unlink()
print("total", total, flush=True)
"""
PROGRAMS = {"one file": ONE_FILE, "folders": FOLDERS, "study": STUDY, "linked": LINKED}
TOTAL = sum(step * step for step in range(1, 21))


def to_its_end(bench: Bench, job: Job, wait_until: Wait, *, preempt: bool) -> Job:
    """The job after all its attempts; the first is preempted once it says so."""
    thread = bench.begin(job)
    if preempt:
        wait_until(lambda: "[1] now\n" in bench.output(job), what="the moment")
        bench.store.request(job.id, Request.PREEMPT)
    thread.join(60)
    assert not thread.is_alive()
    while not bench.store.get(job.id).state.is_final:
        again = wait_until(lambda: bench.store.claim("default", "w"), what="another attempt")
        supervise(bench.service, again)
    return bench.store.get(job.id)


def files_of(bench: Bench, job: Job) -> dict[str, bytes]:
    """The files of a run as readers get them, without those of the service."""
    files = RunFiles(bench.storage, job.id)
    return {
        path: bench.storage.read(files.key(path))
        for path in files.all()
        if not path.startswith(("attempts/", "logs/", "job.json"))
    }


@pytest.mark.parametrize("end", ["kill", "preempt"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_goes_on_from_its_last_whole_checkpoint_as_if_nothing_had_been(
    bench: Bench, wait_until: Wait, name: str, end: str
) -> None:
    def spec(end: str) -> JobSpec:
        return python(COMMON + PROGRAMS[name], env={"END": end}, retry={"backoff_seconds": 0})

    job = to_its_end(bench, bench.claim(spec(end)), wait_until, preempt=end == "preempt")
    assert job.state is State.SUCCEEDED, bench.output(job)
    assert len(job.attempts) == 2
    output = bench.output(job)
    start = int(output.split("[2] from ")[1].split("\n")[0])
    assert start in {8, 11}, "what had settled, and nothing that was being written"
    assert f"[2] total {TOTAL}\n" in output
    twin = bench.run(spec("never"))
    if name == "study":  # the file is not the same to the byte, what is in it is
        return
    assert files_of(bench, job) == files_of(bench, twin)


def test_a_checkpoint_that_cannot_be_loaded_is_not_the_last_word(
    bench: Bench, wait_until: Wait
) -> None:
    script = (
        COMMON
        + """
path = pathlib.Path("model.txt")
text = path.read_text() if path.exists() else "nothing"
print("found", text, flush=True)
if text == "poison":
    raise ValueError("no model")
if attempt == 1:
    path.write_text("good")
    time.sleep(3)
    path.write_text("poison")
    time.sleep(3)
    os.kill(os.getpid(), 9)
"""
    )
    job = bench.claim(python(script, env={"END": ""}, retry={"backoff_seconds": 0}))
    job = to_its_end(bench, job, wait_until, preempt=False)
    output = bench.output(job)
    assert [a.reason for a in job.attempts] == [Reason.ERROR, Reason.ERROR, Reason.COMPLETED]
    assert "[2] found poison\n" in output
    assert "from an older moment of the run: attempt 2 failed before its first step" in output
    assert "[3] found good\n" in output
    first, second, third = (attempt.moment for attempt in job.attempts)
    assert first is None
    assert second is not None
    assert third is not None
    assert third < second


def test_the_working_directory_is_kept_without_what_can_be_made_again(
    bench: Bench, tmp_path: Path
) -> None:
    script = """
import os, pathlib
for name in ("a.txt", "sub/.hidden", "__pycache__/x.pyc", "env/pyvenv.cfg", "env/lib/y", "big.tmp",
             "wandb/run"):
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
print(os.getcwd(), flush=True)
"""
    job = bench.run(python(script, keep={"exclude": ["*.tmp", "wandb/"]}))
    assert set(files_of(bench, job)) == {"work/a.txt", "work/sub/.hidden"}
    line = "--- not saved: excluded by keep.exclude: work/wandb (9 B), work/big.tmp (7 B)\n"
    assert line in bench.output(job)


def test_a_program_may_have_a_directory_that_is_empty_at_first(
    bench: Bench, wait_until: Wait
) -> None:
    script = """
import os, pathlib, sys
out = pathlib.Path(os.environ["SPECTRAIN_OUTPUT_DIR"])
print(sorted(path.name for path in out.iterdir()), flush=True)
(out / "model").write_text("x")
sys.exit(os.environ["SPECTRAIN_ATTEMPT"] == "1")
"""
    job = bench.claim(python(script, retry={"backoff_seconds": 0}))
    job = to_its_end(bench, job, wait_until, preempt=False)
    assert bench.output(job).count("[]\n") == 1
    assert "[2] ['model']\n" in bench.output(job)
    assert set(files_of(bench, job)) == {"output/model"}


def test_the_paths_are_the_same_in_every_attempt(bench: Bench, wait_until: Wait) -> None:
    script = """
import os, pathlib, sys
here = pathlib.Path("here")
print(here.exists() and here.read_text() == os.getcwd() + os.environ["SPECTRAIN_RUN_DIR"])
here.write_text(os.getcwd() + os.environ["SPECTRAIN_RUN_DIR"])
sys.exit(os.environ["SPECTRAIN_ATTEMPT"] == "1")
"""
    job = bench.claim(python(script, retry={"backoff_seconds": 0}))
    job = to_its_end(bench, job, wait_until, preempt=False)
    assert "[2] True\n" in bench.output(job)


def test_a_run_that_grows_beyond_its_limit_ends_with_a_sentence(bench: Bench) -> None:
    script = "import time\nopen('big', 'wb').write(bytes(2_000_000))\ntime.sleep(60)"
    job = bench.run(python(script, limits={"disk_bytes": 1_000_000}))
    assert (job.state, job.reason) == (State.FAILED, Reason.ERROR)
    assert "limits.disk_bytes" in job.message


def test_what_grows_is_sent_once(bench: Bench) -> None:
    """Whatever its name: a file that is appended to all the time costs its bytes."""
    script = """
import time
with open("stream.bin", "wb") as file:
    for _ in range(100):
        file.write(bytes(range(256)) * 100)
        file.flush()
        time.sleep(0.15)
"""
    job = bench.run(python(script))
    assert job.state is State.SUCCEEDED
    sent = job.attempts[0].uploaded_bytes
    assert sent < 1.2 * 100 * 25_600
    assert json.loads(bench.files(job).attempt(1).read_text())["uploaded_bytes"] <= sent
