"""A program that knows nothing of this library: its checkpoints outlive its worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from jobs.messages import Messenger
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.paths import RunPaths
from tests.integration.worker_processes import Workers

# Copies prepared files as if it had trained. It goes on from `latest`, saves the next steps, and
# moves `latest`, as the specification's first implementation does; it waits halfway through a save.
PROGRAM = """
import json, os, pathlib, time
from hashlib import sha256

prepared, seen = map(pathlib.Path, ({prepared!r}, {seen!r}))
folder = pathlib.Path(os.environ["SPECTRAIN_RUN_DIR"], "checkpoints")
folder.mkdir(exist_ok=True)
latest = folder / "checkpoint_latest.pt"


def files():
    return {{
        path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())
    }}


attempt = os.environ["SPECTRAIN_ATTEMPT"]
start = os.readlink(latest) if latest.is_symlink() else None
(seen / f"start-{{attempt}}").write_text(json.dumps([start, files()]))
done = int(start.split("_")[2].split(".")[0]) if start else 0
for step in range(done + 100, 600, 100):
    name = f"checkpoint_step_{{step}}.pt"
    data = (prepared / name).read_bytes()
    with (folder / name).open("wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        while step == 400 and attempt == "1":
            time.sleep(1)
        file.write(data[len(data) // 2 :])
    latest.unlink(missing_ok=True)
    latest.symlink_to(name)
(seen / "end").write_text(json.dumps([os.readlink(latest), files()]))
"""
FIRST, ALL = (100, 200, 300), (100, 200, 300, 400, 500)


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def test_the_checkpoints_of_another_program_outlive_its_worker_byte_for_byte(
    workers: Workers,
    store: JobStore,
    messenger: Messenger,
    settings: Settings,
    tmp_path: Path,
    wait_until: Callable[..., Any],
) -> None:
    prepared, seen = tmp_path / "prepared", tmp_path / "seen"
    prepared.mkdir()
    seen.mkdir()
    for step in ALL:
        state = {"step": step, "model_state_dict": {"weight": torch.randn(64, 64)}}
        torch.save(state, prepared / RunPaths(Path()).checkpoint(step).name)
    script = PROGRAM.format(prepared=str(prepared), seen=str(seen))
    spec = {"name": "foreign", "command": ["python", "-c", script],
            "retry": {"backoff_seconds": 0}}  # fmt: skip
    job = store.submit(JobSpec.model_validate(spec))
    messenger.flush(store.now())
    run = RunPaths(Path(settings.storage_url.removeprefix("file://")) / job.id)

    worker = workers.start()
    wait_until(
        lambda: (at := store.get(job.id).progress) and at.checkpoint_step == 300,
        what="the third checkpoint",
    )
    worker.kill()
    workers.start()
    wait_until(lambda: store.get(job.id).state is State.SUCCEEDED, what="the end of the job")

    attempts = store.get(job.id).attempts
    assert [attempt.reason for attempt in attempts] == [Reason.LOST, Reason.COMPLETED]
    assert (attempts[0].checkpoint_step, attempts[1].checkpoint_step) == (300, 500)
    assert attempts[1].resumed_from == 300

    original = {path.name: digest(path) for path in prepared.iterdir()}
    start, found = json.loads((seen / "start-2").read_text())
    assert start == "checkpoint_step_300.pt"
    whole = {f"checkpoint_step_{step}.pt": original[f"checkpoint_step_{step}.pt"] for step in FIRST}
    assert found == whole | {"checkpoint_latest.pt": original[start]}

    last, had = json.loads((seen / "end").read_text())
    stored = {path.name: digest(path) for path in run.checkpoints.glob("*.pt")}
    assert had == original | {"checkpoint_latest.pt": original["checkpoint_step_500.pt"]}
    assert stored == had
    assert run.latest_checkpoint.readlink() == Path(last) == Path("checkpoint_step_500.pt")
