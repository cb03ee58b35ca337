"""A job brings its code: to a worker that has never seen it, and to each of its attempts."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.storage.directory import FileStorage
from monitoring.storage.run_files import RunFiles
from tests.integration.one_worker import Bench, DiskOf
from worker.attempt.supervisor import supervise
from worker.cache.entries import entries
from workspaces.archive import pack
from workspaces.layout import archive_key

Wait = Callable[..., Any]

# Says what it finds, changes it, and waits in its first attempt until it is preempted.
TRAIN = """
import os, signal, sys, time
from pathlib import Path
from lib.model import NAME
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
paths = sorted(str(p) for p in Path().rglob("*") if "__pycache__" not in str(p))
print("model", NAME, "resumed", os.environ["SPECTRAIN_RESUMED"], flush=True)
print("paths", ",".join(paths), flush=True)
print("config", Path("config.txt").read_text(), flush=True)
if os.environ["SPECTRAIN_ATTEMPT"] == "1":
    Path("config.txt").write_text("changed")
    Path("old.txt").unlink()
    Path("data/before").rename("data/after")
    Path("link").unlink()
    for path in ("gone/x", "gone"):
        Path(path).unlink() if Path(path).is_file() else Path(path).rmdir()
    Path("ckpt.pt").write_text("weights")
    if "FIRST_ONLY" not in os.environ:
        time.sleep(3)
        print("waits", flush=True)
        signal.pause()
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    for path in ("lib/__init__.py", "old.txt", "data/before", "gone/x", "unchanged.txt"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")
    (root / "lib" / "model.py").write_text("NAME = 'from the workspace'\n")
    (root / "config.txt").write_text("as sent")
    (root / "train.py").write_text(TRAIN)
    (root / "link").symlink_to("old.txt")
    subprocess.run(["git", "-C", str(root), "init", "--quiet"], check=True)
    return root


def send(storage: FileStorage, root: Path, limit: int = 10**9) -> dict[str, object]:
    target = io.BytesIO()
    packed = pack(root, target, limit=limit)
    return put(storage, target.getvalue(), packed.sha256) | packed.reference()


def put(storage: FileStorage, data: bytes, name: str = "") -> dict[str, object]:
    sha256 = name or hashlib.sha256(data).hexdigest()
    path = storage.root / archive_key(sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"sha256": sha256, "files": 1, "bytes": 1}


def spec(workspace: dict[str, object], **changes: object) -> JobSpec:
    fields = {
        "name": "a", "command": ["python", "train.py"], "workspace": workspace,
        "retry": {"backoff_seconds": 0},
    }  # fmt: skip
    return JobSpec.model_validate({**fields, **changes})


def again(bench: Bench) -> Job:
    """The next attempt of the job, on a machine that has never seen it."""
    job = bench.store.claim("default", "w")
    assert job is not None
    supervise(bench.service, job)
    return bench.store.get(job.id)


def said(bench: Bench, job: Job, attempt: int, about: str) -> str:
    lines = bench.output(job).splitlines()
    return next(line for line in lines if line.startswith(f"[{attempt}] {about}"))


def test_it_runs_its_code_on_a_worker_that_has_never_seen_it(both: Bench, code: Path) -> None:
    job = both.run(spec(send(both.storage, code), env={"FIRST_ONLY": "1"}))
    assert job.state is State.SUCCEEDED, job.message
    assert said(both, job, 1, "model") == "[1] model from the workspace resumed 0"
    (attempt,) = job.attempts
    assert attempt.workspace_seconds is not None
    assert attempt.restore_seconds is not None
    assert "fetched in" in said(both, job, 1, "--- workspace")


def test_each_attempt_sees_what_the_one_before_left(
    bench: Bench, code: Path, wait_until: Wait, tmp_path: Path
) -> None:
    job = bench.claim(spec(send(bench.storage, code), env={"OF": "a job"}))
    thread = bench.begin(job)
    wait_until(lambda: "waits" in bench.output(job), what="the changes")
    wait_until(
        lambda: "work/ckpt.pt" in RunFiles(bench.storage, job.id).all(), what="the checkpoint"
    )
    bench.store.request(job.id, Request.PREEMPT)
    thread.join()
    bench.service = bench.service.__class__(
        **{**vars(bench.service), "settings": bench.settings.model_copy(
            update={"scratch_dir": tmp_path / "another machine"})}
    )  # fmt: skip
    job = again(bench)
    assert job.state is State.SUCCEEDED, job.message
    assert said(bench, job, 2, "model").endswith("resumed 1")
    assert said(bench, job, 2, "config") == "[2] config changed"
    assert said(bench, job, 2, "paths").removeprefix("[2] paths ").split(",") == [
        "ckpt.pt", "config.txt", "data", "data/after", "lib", "lib/__init__.py", "lib/model.py",
        "train.py", "unchanged.txt",
    ]  # fmt: skip
    # What is shown and fetched is what the program made.
    made = {path for path in RunFiles(bench.storage, job.id).all() if path.startswith("work/")}
    assert made == {"work/ckpt.pt", "work/config.txt", "work/data/after"}
    assert not RunFiles(bench.storage, job.id).links()


def test_the_commit_lies_in_the_run(bench: Bench, code: Path) -> None:
    job = bench.run(spec(send(bench.storage, code), env={"FIRST_ONLY": "1"}))
    assert '"commit": null' in (bench.files(job).root / "git.json").read_text()
    assert bench.store.get(job.id).attempts[0].restored_files == 0


def test_code_alone_is_nothing_to_resume_from(bench: Bench, code: Path) -> None:
    (code / "train.py").write_text(
        "import os, sys\nprint('resumed', os.environ['SPECTRAIN_RESUMED'])\n"
        "sys.exit(3 if os.environ['SPECTRAIN_ATTEMPT'] == '1' else 0)\n"
    )
    job = bench.run(spec(send(bench.storage, code)))
    assert job.state is State.QUEUED
    job = again(bench)
    assert job.state is State.SUCCEEDED
    assert said(bench, job, 2, "resumed") == "[2] resumed 0"


def test_a_second_job_takes_it_from_the_cache(bench: Bench, code: Path) -> None:
    workspace = send(bench.storage, code)
    bench.run(spec(workspace, env={"FIRST_ONLY": "1"}))
    (bench.storage.root / archive_key(str(workspace["sha256"]))).unlink()
    job = bench.run(spec(workspace, env={"FIRST_ONLY": "1"}))
    assert job.state is State.SUCCEEDED
    assert "from the cache of this machine" in said(bench, job, 1, "--- workspace")


def test_a_program_that_writes_to_its_code_changes_its_own_copy(bench: Bench, code: Path) -> None:
    workspace = send(bench.storage, code)
    for _ in range(2):
        job = bench.run(spec(workspace, env={"FIRST_ONLY": "1"}))
        assert said(bench, job, 1, "config") == "[1] config as sent"


# -- bad input ------------------------------------------------------------------------------------


def bomb() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        info = tarfile.TarInfo("files/zeros")
        info.size = 50_000_000
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    return target.getvalue()


def link_to_root() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        info = tarfile.TarInfo("files/link")
        info.type, info.linkname = tarfile.SYMTYPE, "/"
        tar.addfile(info)
    return target.getvalue()


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (bomb(), "", "its files are larger than 10.0 MB"),
        (link_to_root(), "", "the link files/link leads to /"),
        (b"nonsense", "", "the workspace's archive is damaged"),
        (b"nonsense", "0" * 64, "is damaged in storage: its SHA-256 is"),
        (bytes(20_000_000), "", "the workspace's archive has 20.0 MB; SPECTRAIN_WORKSPACE_BYTES"),
        (None, "0" * 64, "the workspace 000000000000… is no longer in storage"),
    ],
    ids=["bomb", "link", "nonsense", "hash", "large", "gone"],
)
def test_a_bad_workspace_ends_the_job_and_the_worker_takes_the_next(
    settings: Settings, store: JobStore, code: Path, data: bytes | None, name: str, words: str
) -> None:
    bench = Bench(settings.model_copy(update={"workspace_bytes": 10_000_000}), store)
    workspace = {"sha256": name, "files": 1, "bytes": 1}
    if data is not None:
        workspace = put(bench.storage, data, name)
    job = bench.run(spec(workspace))
    assert job.state is State.FAILED
    assert words in job.message
    assert job.message.endswith("(not retried)")
    assert len(job.attempts) == 1
    assert not [entry for entry in entries(settings.cache_path) if entry.path.exists()]
    job = bench.run(spec(send(bench.storage, code), env={"FIRST_ONLY": "1"}))
    assert job.state is State.SUCCEEDED
    bench.service.messenger.close()


def test_a_full_cache_disk_is_told_and_the_job_is_tried_again(
    settings: Settings, store: JobStore, code: Path, disk_of: DiskOf
) -> None:
    disk = disk_of("200k")
    bench = Bench(settings.model_copy(update={"cache_dir": str(disk)}), store)
    (code / "large").write_bytes(bytes(1_000_000))
    job = bench.run(spec(send(bench.storage, code)))
    assert job.state is State.QUEUED
    assert job.attempts[0].reason is Reason.STORAGE
    assert f"the disk of the cache {disk} is full" in job.attempts[0].message
    bench.settings = bench.settings.model_copy(update={"cache_dir": ""})
    store.request(job.id, Request.CANCEL)
    (code / "large").unlink()
    job = bench.run(spec(send(bench.storage, code), env={"FIRST_ONLY": "1"}))
    assert job.state is State.SUCCEEDED, "the worker is fit for the next job"
    bench.service.messenger.close()


def test_a_job_can_be_cancelled_while_its_code_is_fetched(
    bench: Bench, code: Path, wait_until: Wait
) -> None:
    workspace = send(bench.storage, code)
    holder = (
        "import sys, time\nfrom pathlib import Path\nfrom worker.cache.cache import Cache\n"
        "def build(_):\n    print('builds', flush=True)\n    time.sleep(600)\n"
        "Cache(Path(sys.argv[1]), 10**9).use('code', sys.argv[2], build, durable=False)\n"
    )
    command = [
        sys.executable,
        "-c",
        holder,
        str(bench.settings.cache_path),
        str(workspace["sha256"]),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "builds\n"
        job = bench.claim(spec(workspace))
        thread = bench.begin(job)
        wait_until(lambda: bench.store.get(job.id).state is State.RUNNING, what="the attempt")
        bench.store.request(job.id, Request.CANCEL)
        thread.join(timeout=60)
        assert bench.store.get(job.id).state is State.CANCELLED
        other.kill()
