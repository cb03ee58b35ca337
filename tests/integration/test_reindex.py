"""Redis is lost, all of it: what storage holds makes the same records again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from api.local.redis_server import RedisConfig, redis_of
from api.ops.reindex import Reindex
from api.server.app import create_app
from api.server.context import EXTENSION
from jobs.actor import ACTOR, Actor
from jobs.errors import RecordGoneError, StaleAttemptError
from jobs.model.change import JobChange
from jobs.model.record import Job, Verdict
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request, State
from jobs.notify import Webhook
from jobs.reaper.backup import Backup
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore, open_store
from machine.python import python_module
from monitoring.storage.base import Fence, Storage
from monitoring.storage.open import open_storage
from monitoring.storage.run_records import RunRecords
from tests.integration.one_worker import OwnRedis
from tests.integration.warm_python import WarmPython

Wait = Callable[..., Any]
SPEC = JobSpec(name="a", command=["true"])
# Counters begin anew: one that came back with all it had would look like as many new ends. The
# events of all jobs begin anew, too.
# Who has had how many turns begins anew.
OF_THE_MOMENT = {
    "dirty", "outbox", "leases", "epoch", "counters", "events",
    "jobs:pool:default:owners", "jobs:pool:default:turns",
}  # fmt: skip


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, settings: Settings) -> Storage:
    if request.param == "s3":
        return open_storage(request.getfixturevalue("s3_url"))
    Path(settings.storage_url.removeprefix("file://")).mkdir()
    return open_storage(settings.storage_url)


class Jobs:
    """A store whose jobs are moved by hand, with copies in storage."""

    def __init__(self, store: JobStore, storage: Storage) -> None:
        self.store = store
        self.storage = storage

    def submit(self, owner: str | None = None, **options: Any) -> Job:
        return self.store.submit(SPEC.model_copy(update=options), owner=owner)

    def begin(self, worker: str = "w", **options: Any) -> Job:
        self.submit(priority=9, **options)
        job = self.store.claim("default", worker)
        assert job is not None
        self.storage.seize(Fence(job.id, job.attempt))
        return job

    def end(self, job: Job, reason: Reason, **receipt: Any) -> Job:
        assert job.current is not None
        ended = job.current.model_copy(
            update={"ended_at": self.store.now(), "reason": reason, **receipt}
        )
        after = self.store.finish(job.id, ended)
        assert after is not None
        return after

    def receipt(self, job: Job, reason: Reason, tmp_path: Path) -> None:
        """As a worker writes it, before it tells Redis."""
        assert job.current is not None
        path = tmp_path / "receipt"
        path.write_text(
            job.current.model_copy(
                update={"ended_at": self.store.now(), "reason": reason, "message": "so it ended"}
            ).model_dump_json()
        )
        self.storage.put(f"{job.id}/attempts/{job.attempt}.json", path, Fence(job.id, job.attempt))

    def keep(self) -> None:
        Backup(self.store, RunRecords(self.storage)).run_once(threading.Event())

    def lose(self) -> None:
        self.store.redis.flushall()

    def reindex(self, *, dry_run: bool = False) -> dict[str, str]:
        found = Reindex(self.store, self.storage).run(dry_run=dry_run)
        return {one.run: one.what for one in found}


@pytest.fixture
def jobs(store: JobStore, storage: Storage) -> Jobs:
    return Jobs(store, storage)


def everything(redis: Any) -> dict[str, Any]:
    """All that Redis holds of jobs, but for what says when a thing is due."""
    found = {}
    for key in redis.keys("spectrain:*"):
        name = key.removeprefix("spectrain:")
        kind = redis.type(key)
        # Ranks are made anew by the next claim.
        if name in OF_THE_MOMENT or name.startswith("worker") or ":ranked" in name:
            continue
        if kind == "hash":
            found[name] = redis.hgetall(key)
        elif kind == "zset":
            found[name] = redis.zrange(key, 0, -1, withscores=True)
        elif kind == "stream":
            found[name] = [e for e in redis.xrange(key) if e[1]["type"] != "reindexed"]
        elif kind == "set":
            found[name] = redis.smembers(key)
        elif kind == "string":
            found[name] = redis.get(key)
    return found


def test_records_made_of_storage_alone_are_those_that_were_lost(jobs: Jobs) -> None:
    store = jobs.store
    jobs.end(jobs.begin(), Reason.COMPLETED, last_step=7, checkpoint_step=7)
    jobs.end(jobs.begin(), Reason.DIVERGED, message="loss is NaN")
    jobs.end(jobs.begin(), Reason.PREEMPTED, checkpoint_step=3)
    in_back_off = jobs.begin(retry=SPEC.retry.model_copy(update={"backoff_seconds": 600}))
    jobs.end(in_back_off, Reason.ERROR, exit_code=1)
    paused = jobs.begin()
    store.request(paused.id, Request.PAUSE)
    jobs.end(paused, Reason.PAUSED)
    store.request(jobs.submit().id, Request.CANCEL)
    changed = jobs.submit(labels={"team": "waves"})
    store.change(changed.id, JobChange(priority=8))
    store.proofs.record(changed.id, Verdict(verdict="identical", interruptions=4))
    acting = ACTOR.set(Actor("ada", "203.0.113.7"))
    keyed = store.submit(
        SPEC.model_copy(update={"priority": 0}), idempotency_key="mine", owner="ada"
    )
    ACTOR.reset(acting)
    asked = jobs.begin("still-there")
    store.request(asked.id, Request.PREEMPT)
    jobs.keep()
    before, leases = everything(store.redis), store.redis.zrange(store.keys.leases, 0, -1)
    due = store.redis.zrange(store.keys.outbox, 0, -1)
    assert jobs.reindex() == dict.fromkeys(jobs.storage.runs(), "known")
    assert everything(store.redis) == before, "a service that is alive is left as it is"

    jobs.lose()
    assert set(jobs.reindex(dry_run=True).values()) == {"rebuilt"}
    assert not store.redis.keys("*"), "a dry run writes nothing"
    assert set(jobs.reindex().values()) == {"rebuilt"}
    assert everything(store.redis) == before
    assert store.redis.zrange(store.keys.leases, 0, -1) == leases == [asked.id]
    assert sorted(store.redis.zrange(store.keys.outbox, 0, -1)) == sorted(due)
    assert store.submit(keyed.spec, idempotency_key="mine", owner="ada").id == keyed.id
    assert jobs.submit().sequence == len(jobs.storage.runs()) + 1
    again = everything(store.redis)
    assert set(jobs.reindex().values()) == {"known"}
    assert everything(store.redis) == again


def test_what_a_run_knows_better_than_the_copy_of_its_record_counts(
    jobs: Jobs, tmp_path: Path
) -> None:
    ended, died, begun, sent_back = jobs.begin("1"), jobs.begin("2"), jobs.submit(), jobs.begin("3")
    jobs.end(sent_back, Reason.PREEMPTED)
    jobs.keep()
    # All of this after the last copies were made.
    jobs.receipt(ended, Reason.COMPLETED, tmp_path)
    again = jobs.store.claim("default", "4")
    assert again is not None
    assert again.id == sent_back.id
    jobs.storage.seize(Fence(again.id, again.attempt))
    jobs.receipt(again, Reason.DIVERGED, tmp_path)
    late = jobs.store.claim("default", "5")
    assert late is not None
    assert late.id == begun.id
    jobs.storage.seize(Fence(late.id, late.attempt))
    jobs.lose()
    jobs.reindex()
    found = {job.id: job for job in jobs.store.newest()}
    assert (found[ended.id].state, found[ended.id].message) == (State.SUCCEEDED, "so it ended")
    assert (found[died.id].state, found[died.id].worker) == (State.RUNNING, "2")
    assert [a.reason for a in found[again.id].attempts] == [Reason.PREEMPTED, Reason.DIVERGED]
    assert found[again.id].state is State.FAILED
    assert (found[late.id].state, found[late.id].attempt) == (State.RUNNING, 1)
    assert jobs.store.renew(late.id, 1, worker="5") is None, "its worker is there: it goes on"
    assert jobs.store.get(late.id).worker == "5"
    with pytest.raises(StaleAttemptError):
        jobs.store.renew(late.id, 1, worker="another")


def test_attempts_go_on_above_the_numbers_that_storage_knows(jobs: Jobs) -> None:
    job = jobs.begin()
    jobs.keep()
    backup = jobs.store.redis.hgetall(jobs.store.keys.job(job.id))
    for _ in range(2):
        jobs.end(job, Reason.PREEMPTED)
        job = jobs.store.claim("default", "w") or job
        jobs.storage.seize(Fence(job.id, job.attempt))
    assert job.attempt == 3
    # A Redis that was restored from a backup knows the first attempt only.
    jobs.store.redis.hset(jobs.store.keys.job(job.id), mapping=backup)
    assert jobs.reindex() == {job.id: "behind"}
    assert jobs.store.get(job.id).attempt == 3
    assert jobs.reindex() == {job.id: "known"}


def test_jobs_submitted_before_the_reindexing_stay_as_they_are(jobs: Jobs) -> None:
    old = [jobs.submit() for _ in range(3)]
    jobs.keep()
    jobs.lose()
    new = [jobs.submit() for _ in range(2)]
    before = [jobs.store.get(job.id) for job in new]
    jobs.reindex()
    assert [jobs.store.get(job.id) for job in new] == before
    order = [job.id for job in jobs.store.newest()]
    assert order == [job.id for job in (*reversed(old), *reversed(new))]
    assert jobs.store.get(old[0].id).submitted_at == old[0].submitted_at


def test_a_run_without_a_copy_of_its_record_is_made_of_what_it_says_itself(
    jobs: Jobs, tmp_path: Path
) -> None:
    hook = Webhook(url="https://x/y", on=["finished"])
    job = jobs.begin(owner="ada", notify=[hook])
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json(include={"id", "spec", "submitted_at", "owner"}))
    jobs.storage.put(f"{job.id}/job.json", path)
    jobs.receipt(job, Reason.PREEMPTED, tmp_path)
    bare = jobs.begin("other")
    jobs.storage.append(f"{bare.id}/logs/output.log", 0, b"hello\n", Fence(bare.id, 1))
    jobs.lose()
    assert jobs.reindex() == {job.id: "rebuilt", bare.id: "impossible"}
    found = jobs.store.get(job.id)
    assert (found.state, found.attempt, found.spec) == (State.QUEUED, 1, job.spec)
    assert found.owner == "ada"
    assert jobs.store.redis.hget(jobs.store.keys.job(job.id), "notify") == "1"
    assert found.submitted_at == pytest.approx(job.submitted_at, abs=1e-5)


def test_a_copy_that_was_overtaken_while_it_was_written_is_made_again(jobs: Jobs) -> None:
    job = jobs.submit()
    keeping = Backup(jobs.store, RunRecords(jobs.storage))

    class Slow(RunRecords):
        """Another process copies, too, while this one writes."""

        def put(self, run: str, data: bytes) -> None:
            jobs.store.request(job.id, Request.CANCEL)
            keeping.run_once(threading.Event())
            super().put(run, data)

    first = Backup(jobs.store, Slow(jobs.storage))
    assert jobs.store.records.backed_up(job.id, 0.0) == "changed"
    at = jobs.store.redis.zscore(jobs.store.keys.dirty, job.id)
    assert first._copied(job.id, at)
    stale = RunRecords(jobs.storage).read(job.id) or b""
    assert json.loads(stale)["fields"]["state"] == "queued"
    jobs.keep()
    copy = RunRecords(jobs.storage).read(job.id) or b""
    assert json.loads(copy)["fields"]["state"] == "cancelled"


def test_the_receipts_of_a_job_that_has_ended_are_in_storage_as_in_the_record(
    jobs: Jobs, tmp_path: Path
) -> None:
    """Also that of an attempt whose worker was killed, or that never had a program to run."""
    lost = jobs.end(
        jobs.begin(retry=SPEC.retry.model_copy(update={"max_no_progress": 1})), Reason.LOST
    )
    told_otherwise = jobs.begin()
    jobs.receipt(told_otherwise, Reason.COMPLETED, tmp_path)
    jobs.store.request(told_otherwise.id, Request.CANCEL)
    jobs.end(told_otherwise, Reason.CANCELLED)
    goes_on = jobs.end(jobs.begin(), Reason.PREEMPTED)
    jobs.keep()
    for job in (lost, told_otherwise):
        record = jobs.store.get(job.id)
        assert record.state.is_final
        assert jobs.storage.read(f"{job.id}/attempts/1.json") == record.attempts[0].receipt()
    assert not jobs.storage.stat(f"{goes_on.id}/attempts/1.json"), "its next attempt writes it"


def test_a_copy_that_is_written_while_its_run_is_deleted_goes_with_it(jobs: Jobs) -> None:
    job = jobs.end(jobs.begin(), Reason.COMPLETED)
    jobs.keep()
    assert jobs.storage.stat(f"{job.id}/attempts/1.json")
    jobs.store.redis.zadd(jobs.store.keys.dirty, {job.id: 1.0})

    class Late(RunRecords):
        def put(self, run: str, data: bytes) -> None:
            jobs.store.mark_deleted(job.id)
            jobs.storage.delete_run(job.id)
            jobs.store.delete(job.id)
            super().put(run, data)

    Backup(jobs.store, Late(jobs.storage)).run_once(threading.Event())
    assert jobs.storage.list(job.id) == []


def test_a_receipt_that_a_program_made_up_counts_for_nothing(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs.begin()
    jobs.keep()
    assert job.current is not None
    path = tmp_path / "receipt"
    made_up = job.current.model_copy(update={"number": 5, "reason": Reason.COMPLETED})
    path.write_text(made_up.model_dump_json())
    jobs.storage.put(f"{job.id}/attempts/5.json", path, Fence(job.id, 1))
    assert jobs.reindex() == {job.id: "known"}
    jobs.lose()
    jobs.reindex()
    assert (jobs.store.get(job.id).state, jobs.store.get(job.id).attempt) == (State.RUNNING, 1)


def test_half_a_copy_is_none_and_the_rest_of_the_run_counts(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs.begin()
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json(include={"id", "spec", "submitted_at"}))
    jobs.storage.put(f"{job.id}/job.json", path)
    jobs.keep()
    whole = RunRecords(jobs.storage).read(job.id) or b""
    RunRecords(jobs.storage).put(job.id, whole[: len(whole) // 2])
    jobs.lose()
    assert jobs.reindex() == {job.id: "rebuilt"}
    assert (jobs.store.get(job.id).state, jobs.store.get(job.id).attempt) == (State.RUNNING, 1)
    assert not list(tmp_path.rglob(".spectrain-tmp-*"))


def test_a_deleted_job_is_told_from_one_that_redis_has_lost(jobs: Jobs) -> None:
    job = jobs.begin()
    epoch = jobs.store.epoch()
    jobs.end(job, Reason.COMPLETED)
    jobs.store.delete(job.id)
    with pytest.raises(RecordGoneError) as gone:
        jobs.store.renew(job.id, 1)
    assert gone.value.epoch == epoch
    jobs.lose()
    jobs.begin()
    with pytest.raises(RecordGoneError) as gone:
        jobs.store.renew(job.id, 1)
    assert gone.value.epoch not in {"", epoch}


def test_the_copy_is_no_file_of_the_run_for_those_who_fetch_it(
    jobs: Jobs, settings: Settings
) -> None:
    job = jobs.submit()
    app = create_app(settings)
    jobs.storage = app.extensions[EXTENSION].storage
    jobs.keep()
    assert RunRecords(jobs.storage).read(job.id)
    answer = app.test_client().get(f"/v1/jobs/{job.id}/artifacts")
    assert answer.get_json() == {"artifacts": [], "links": []}
    app.extensions[EXTENSION].close()


# -- with real processes -----------------------------------------------------------------------

TRAINING = {
    "model": {"type": "wave", "d_model": 16, "num_layers": 1, "num_heads": 2, "num_waves": 4,
              "num_harmonics": 2, "block_size": 16},
    "dataset": {"name": "stdlib"}, "steps": 1500, "batch_size": 2, "seed": 5,
    "plot_every": 0, "sample_tokens": 0,
}  # fmt: skip


class Loses:
    """A Redis of the test's own and a worker on it."""

    def __init__(self, directory: Path, own_redis: OwnRedis, warm_python: WarmPython) -> None:
        self._directory = directory
        self._warm_python = warm_python
        self._config, self._start_redis = own_redis
        self.storage_url = (directory / "experiments").as_uri()
        (directory / "experiments").mkdir()
        self.started: list[subprocess.Popen[bytes]] = []
        self.redis = self._start_redis()
        self.settings = Settings(
            redis_url=self._config.url, storage_url=self.storage_url, lease_seconds=2
        )
        self.store = open_store(connect(self.settings), self.settings)

    def lose_redis(self) -> None:
        """Kills it, removes what it had, and begins an empty one."""
        self.redis.kill()
        self.redis.wait()
        for path in sorted(self._config.path.parent.rglob("*"), reverse=True):
            if path != self._config.path:
                path.rmdir() if path.is_dir() else path.unlink()
        self.redis = self._start_redis()

    def worker(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                python_module("worker"), env=self.environment, stdout=log, stderr=log
            )
        self.started.append(process)
        return process

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{k: v for k, v in os.environ.items() if k != "REDIS_URL"},
            "SPECTRAIN_REDIS_URL": self._config.url,
            "SPECTRAIN_STORAGE_URL": self.storage_url,
            "SPECTRAIN_SCRATCH_DIR": str(self._directory / "scratch"),
            "SPECTRAIN_LEASE_SECONDS": "2",
            "SPECTRAIN_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
        }

    @property
    def log(self) -> Path:
        return self._directory / "worker.log"

    def reindex(self, *arguments: str) -> str:
        ended = self._warm_python.run("api.cli", "reindex", *arguments, env=self.environment)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def is_kept(self, job: Job, state: State, attempt: int) -> bool:
        path = self._directory / "experiments" / job.id / ".record.json"
        fields = json.loads(path.read_text())["fields"] if path.exists() else {}
        return (fields.get("state"), fields.get("attempt")) == (state.value, str(attempt))

    def has_checkpoint(self, job: Job) -> bool:
        folder = self._directory / "experiments" / job.id / "checkpoints"
        return any(folder.glob("checkpoint_step_*.pt.json"))

    def curve(self, job: Job) -> list[tuple[int, float]]:
        path = self._directory / "experiments" / job.id / "logs" / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [(row["step"], row["loss"]) for row in rows]

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def loses(tmp_path: Path, own_redis: OwnRedis, warm_python: WarmPython) -> Iterator[Loses]:
    loses = Loses(tmp_path, own_redis, warm_python)
    yield loses
    loses.close()


def _step(loses: Loses, job: Job) -> int:
    try:
        return loses.curve(job)[-1][0]
    except (OSError, IndexError, ValueError):
        return -1


def test_a_job_whose_worker_and_redis_are_lost_goes_on_and_has_the_curve_of_its_twin(
    loses: Loses, wait_until: Wait
) -> None:
    spec = JobSpec(name="t", train=TRAINING, checkpoint={"every_steps": 20}, priority=9)
    reference = loses.store.submit(spec.model_copy(update={"name": "reference"}))
    worker = loses.worker()
    wait_until(
        lambda: loses.store.get(reference.id).state is State.SUCCEEDED,
        what="the reference",
        seconds=180,
    )
    job = loses.store.submit(spec)
    waiting = loses.store.submit(JobSpec(name="waiting", command=["true"], priority=1))
    wait_until(lambda: loses.has_checkpoint(job), what="a checkpoint")
    os.kill(worker.pid, signal.SIGSTOP)  # as it is now, for as long as this looks
    lost = loses.store.get(job.id)
    os.kill(worker.pid, signal.SIGCONT)
    wait_until(lambda: loses.is_kept(job, State.RUNNING, 1), what="a copy of its record")
    wait_until(lambda: loses.is_kept(waiting, State.QUEUED, 0), what="a copy of the other's")
    worker.kill()
    worker.wait()
    loses.lose_redis()
    assert not loses.store.redis.keys("*")
    assert "3 rebuilt" in loses.reindex()
    found = loses.store.get(job.id)
    assert found.spec == lost.spec
    assert (found.state, found.attempt, found.sequence) == (State.RUNNING, 1, lost.sequence)
    loses.worker()
    wait_until(
        lambda: loses.store.get(job.id).state is State.SUCCEEDED, what="its end", seconds=180
    )
    wait_until(lambda: loses.store.get(waiting.id).state is State.SUCCEEDED, what="the other's")
    ended = loses.store.get(job.id)
    assert [a.reason for a in ended.attempts] == [Reason.LOST, Reason.COMPLETED]
    assert (ended.attempts[1].resumed_from or 0) > 0
    assert loses.curve(job) == loses.curve(reference)
    assert loses.store.get(reference.id).state is State.SUCCEEDED


def test_a_worker_that_trains_while_redis_loses_its_memory_goes_on_and_is_not_doubled(
    loses: Loses, wait_until: Wait
) -> None:
    spec = JobSpec(name="t", train=TRAINING, checkpoint={"every_steps": 100})
    job = loses.store.submit(spec)
    loses.worker()
    wait_until(lambda: _step(loses, job) > 5, what="some steps")
    wait_until(lambda: loses.is_kept(job, State.RUNNING, 1), what="a copy of its record")
    wait_until(loses.store.epoch)
    store, leases = loses.store, loses.store.keys.leases
    due = store.redis.zscore(leases, job.id)
    wait_until(lambda: store.redis.zscore(leases, job.id) > due, what="a renewal")
    loses.lose_redis()
    wait_until(lambda: "run `spectrain reindex`" in loses.log.read_text(), what="its word")
    here = _step(loses, job)
    wait_until(lambda: _step(loses, job) > here + 2, what="further steps")
    loses.reindex()
    idle = loses.worker()
    wait_until(
        lambda: loses.store.get(job.id).state is State.SUCCEEDED, what="its end", seconds=180
    )
    assert idle.poll() is None
    ended = loses.store.get(job.id)
    assert [a.reason for a in ended.attempts] == [Reason.COMPLETED], "nothing was interrupted"
    assert [step for step, _ in loses.curve(job)] == sorted({s for s, _ in loses.curve(job)})


def test_reindexing_where_there_is_nothing_says_what_is_missing(
    tmp_path: Path, warm_python: WarmPython
) -> None:
    environment = {**os.environ, "SPECTRAIN_STORAGE_URL": (tmp_path / "none").as_uri()}
    for arguments in (["--data", str(tmp_path)], []):
        ended = warm_python.run("api.cli", "reindex", *arguments, env=environment)
        assert ended.returncode == 1
        assert "Traceback" not in ended.stderr
        assert ended.stderr.startswith("Cannot reindex: ")


def test_a_redis_of_spectrain_up_is_found_by_its_data_directory(tmp_path: Path) -> None:
    config = RedisConfig(tmp_path / "redis")
    assert redis_of(tmp_path / "redis") == config.url
    assert Redis.from_url(config.url) is not None
