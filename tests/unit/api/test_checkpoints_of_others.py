"""Checkpoints without a commit record, as `gc` and `reindex` see them."""

from pathlib import Path

import pytest

from api.ops.garbage import Garbage, Stored, garbage
from api.ops.reindex import read_remains
from jobs.model.record import Job
from jobs.model.spec import JobSpec
from monitoring.storage.base import StoredFile
from monitoring.storage.directory import FileStorage

COMMAND = JobSpec(name="t", command=["python", "train.py"])
TRAIN = JobSpec(name="t", train={"steps": 9})
FOLDER = "a/checkpoints/checkpoint_step_"


def job(spec: JobSpec) -> Job:
    return Job.model_validate(
        {"id": "a", "spec": spec, "state": "succeeded", "sequence": 1, "priority": 5,
         "submitted_at": 0, "queued_at": 0}
    )  # fmt: skip


@pytest.mark.parametrize("beside", [[], [f"{FOLDER}2.pt", f"{FOLDER}2.pt.json"]])
def test_only_the_built_in_workload_leaves_half_a_checkpoint(beside: list[str]) -> None:
    files = [StoredFile(key, 5, 0.0) for key in [f"{FOLDER}1.pt", *beside]]
    stored = Stored("a", files, committed_at=dict.fromkeys(beside[:1], 1.0))
    assert garbage(stored, job(COMMAND), 1e9) == []
    [found] = garbage(stored, job(TRAIN), 1e9)
    assert found == Garbage("a", "incomplete checkpoint", 5, (f"{FOLDER}1.pt",))


@pytest.mark.parametrize(("spec", "step"), [(COMMAND, 150), (TRAIN, None)])
def test_a_rebuilt_record_knows_the_checkpoints_of_other_programs(
    tmp_path: Path, spec: JobSpec, step: int | None
) -> None:
    checkpoints = tmp_path / "a" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for number in (100, 150):
        (checkpoints / f"checkpoint_step_{number}.pt").write_bytes(b"weights")
    text = job(spec).model_dump_json(include={"id", "spec", "submitted_at"})
    (tmp_path / "a" / "job.json").write_text(text)
    assert read_remains(FileStorage(tmp_path), "a").checkpoint_step == step
