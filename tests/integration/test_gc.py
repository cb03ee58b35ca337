"""What `spectrain gc` removes, and what it does not, on a volume and in an object store."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient

from api.cli.main import cli
from api.ops.garbage import Garbage, Stored, garbage
from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.checkpoints import commit
from monitoring.checkpoints.commit import CommitRecord
from monitoring.paths import RunPaths
from monitoring.storage.base import Fence, Storage, StoredFile
from monitoring.storage.open import open_storage
from tests.integration.http_calls import MakeApp
from worker.files.publish import Publisher
from worker.files.restore import restore
from worker.files.scratch import Restored, Scratch

TRAIN = JobSpec(name="t", train={"steps": 9}, checkpoint={"keep_last": 2})
LATER = time.time() + 3600
LONG_AGO = time.time() - 3600


@pytest.fixture
def storage(service: Settings) -> Storage:
    return open_storage(service.storage_url)


@pytest.fixture
def http(service: Settings, make_app: MakeApp) -> FlaskClient:
    return make_app(service).test_client()


class Attempt:
    """An attempt on a machine of its own."""

    def __init__(self, storage: Storage, job: Job, machine: Path) -> None:
        self.scratch = Scratch(machine, job.id, job.attempt)
        self.scratch.root.mkdir(parents=True)
        self.scratch.empty()
        self.scratch.output.touch()
        storage.seize(Fence(job.id, job.attempt))
        restored = restore(storage, job.id, self.scratch.run, keeps_records=True)
        assert isinstance(restored, Restored)
        self.publisher = Publisher(storage, self.scratch, Fence(job.id, job.attempt), restored)
        self.attempt = job.attempt

    def save(self, step: int) -> None:
        path = self.scratch.run.checkpoint(step)
        path.write_bytes(b"weights %d" % step)
        checksum = commit.checksum(path, "crc32")
        size = path.stat().st_size
        record = CommitRecord(step, size, checksum, self.attempt, time.time() + step)
        commit.write(path, record)
        self.scratch.run.latest_checkpoint.unlink(missing_ok=True)
        self.scratch.run.latest_checkpoint.symlink_to(path.name)

    def retire(self, step: int) -> None:
        path = self.scratch.run.checkpoint(step)
        path.unlink()
        path.with_name(f"{path.name}.json").unlink()


def running(store: JobStore, spec: JobSpec = TRAIN) -> Job:
    store.submit(spec)
    job = store.claim("default", f"worker of {spec.name}")
    assert job is not None
    return job


def ended(store: JobStore, job: Job, reason: Reason = Reason.COMPLETED) -> Job:
    assert job.current is not None
    receipt = job.current.model_copy(update={"ended_at": store.now(), "reason": reason})
    after = store.finish(job.id, receipt)
    assert after is not None
    return after


def names(storage: Storage, job: Job) -> set[str]:
    return {Path(file.key).name for file in storage.list(job.id)}


def run_gc(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["gc", "--older-than", "0", *arguments])
    return result.exit_code, result.output


def test_retention_in_the_store_is_that_on_disk_also_after_a_preemption_to_another_machine(
    storage: Storage, store: JobStore, tmp_path: Path
) -> None:
    job = running(store)
    first = Attempt(storage, job, tmp_path / "one")
    for step in (1, 2):
        first.save(step)
    first.publisher.publish()
    first.save(3)
    first.retire(1)
    first.publisher.publish()
    assert names(storage, job) >= {"checkpoint_step_2.pt", "checkpoint_step_3.pt"}
    assert "checkpoint_step_1.pt" not in names(storage, job)
    ended(store, job, Reason.PREEMPTED)
    again = store.claim("default", "elsewhere")
    assert again is not None
    second = Attempt(storage, again, tmp_path / "two")
    assert second.scratch.run.checkpoint(2).exists(), "it knows what it is to retire"
    second.save(4)
    second.retire(2)
    second.publisher.publish()
    on_disk = {path.name for path in second.scratch.run.checkpoints.iterdir()}
    stored = {n for n in names(storage, job) if n.startswith("checkpoint")}
    assert stored | {"checkpoint_latest.pt"} == on_disk
    assert storage.links(job.id)


def test_what_a_killed_attempt_did_not_retire_goes_when_its_job_has_ended(
    storage: Storage, store: JobStore, tmp_path: Path
) -> None:
    job = running(store)
    attempt = Attempt(storage, job, tmp_path / "one")
    for step in (1, 2, 3, 4):
        attempt.save(step)
    attempt.publisher.publish()
    run = RunPaths(Path(job.id))
    storage.delete(f"{run.checkpoint(1)}.json")  # killed between its record and its data
    (tmp_path / "bad").write_bytes(b"damaged")
    storage.put(f"{run.checkpoint(0)}.corrupt", tmp_path / "bad")
    assert run_gc() == (0, "0 B removed, in 0 runs.\n"), "its attempt is at work"
    ended(store, job)
    before = names(storage, job)
    code, said = run_gc("--dry-run")
    assert code == 0
    for words in ("incomplete checkpoint", "damaged, set aside", "beyond keep_last", "would be"):
        assert words in said
    assert names(storage, job) == before
    run_gc()
    assert before - names(storage, job) == {
        "checkpoint_step_1.pt", "checkpoint_step_2.pt", "checkpoint_step_2.pt.json",
        "checkpoint_step_0.pt.corrupt",
    }  # fmt: skip
    assert run_gc() == (0, "0 B removed, in 0 runs.\n")


def test_a_run_that_redis_has_lost_stays_and_one_whose_job_was_deleted_goes(
    storage: Storage, store: JobStore, http: FlaskClient, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"kept")
    lost, deleted = (running(store, TRAIN), running(store, TRAIN.model_copy(update={"name": "b"})))
    for job in (lost, deleted):
        spec = tmp_path / "job.json"
        spec.write_text(job.model_dump_json(include={"id", "spec", "submitted_at"}))
        storage.put(f"{job.id}/job.json", spec)
    ended(store, lost)
    storage.put(f"{deleted.id}/x.txt", tmp_path / "x")
    ended(store, deleted)
    assert http.delete(f"/v1/jobs/{deleted.id}").status_code == 204
    assert run_gc("--older-than", "7")[0] == 0
    assert names(storage, deleted), "changed a moment ago"
    store.redis.flushall()
    code, said = run_gc()
    assert code == 1
    assert "spectrain reindex" in said
    assert names(storage, lost)
    assert not storage.list(deleted.id)
    CliRunner().invoke(cli, ["reindex"])
    assert [job.id for job in store.newest()] == [lost.id], "who was deleted stays deleted"
    assert run_gc() == (0, "0 B removed, in 0 runs.\n")


def test_a_temporary_file_of_a_killed_writer_goes_with_time(tmp_path: Path) -> None:
    storage = open_storage(tmp_path.as_uri())
    (tmp_path / "a" / "logs").mkdir(parents=True)
    (tmp_path / "a" / "logs" / ".spectrain-tmp-0123").write_bytes(b"12345")
    (left,) = storage.leftovers("a")
    job = Job.model_validate(
        {"id": "a", "spec": TRAIN, "state": "succeeded", "sequence": 1, "priority": 5,
         "submitted_at": 0, "queued_at": 0}
    )  # fmt: skip
    stored = Stored("a", storage.list("a"), [left])
    assert garbage(stored, job, LONG_AGO) == []
    (found,) = garbage(stored, job, LATER)
    assert isinstance(found, Garbage)
    assert (found.bytes, found.files) == (5, ("a/logs/.spectrain-tmp-0123",))
    storage.delete(found.files[0])
    assert not storage.leftovers("a")


def test_checkpoints_of_a_run_that_nobody_can_name_stay() -> None:
    files = [StoredFile("a/checkpoints/checkpoint_step_1.pt", 1, 0.0)]
    (found,) = garbage(Stored("a", files, rebuildable=False), None, LATER)
    assert not isinstance(found, Garbage)
    (found,) = garbage(Stored("a", [StoredFile("a/x", 3, 0.0)], rebuildable=False), None, LATER)
    assert found == Garbage("a", "origin unknown", 3)
