"""Attempts of real programs, with a real Redis and a real directory to keep them in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.redis_server import RedisConfig, find_redis_server
from jobs.change import JobChange, LimitsChange
from jobs.messages import Messenger
from jobs.reaper import Reaper
from jobs.record import Job
from jobs.rules import lost_attempt
from jobs.settings import Settings, connect
from jobs.spec import JobSpec
from jobs.states import Reason, Request, State
from jobs.store import JobStore
from monitoring import commit
from monitoring.file_storage import FileStorage
from monitoring.paths import RunPaths
from monitoring.storage import Fence, open_storage
from worker import memory
from worker.launch import Slot
from worker.service import Attendance, Service
from worker.supervisor import supervise

Wait = Callable[..., Any]

STUBBORN = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); "
    "print('up', flush=True); time.sleep(600)"
)
BEATS = "from monitoring import heartbeat; import time\n"


def python(script: str, **spec: object) -> JobSpec:
    fields = {"name": "a", "command": ["python", "-c", script], "retry": {"backoff_seconds": 0}}
    return JobSpec.model_validate({**fields, **spec})


class Bench:
    """One worker without its Celery."""

    def __init__(self, settings: Settings, store: JobStore) -> None:
        self.settings = settings
        self.store = store
        self.attendance = Attendance()
        storage = open_storage(settings.storage_url)
        assert isinstance(storage, FileStorage)
        self.storage = storage
        messenger = Messenger(settings, store)
        self.service = Service(settings, store, messenger, storage, Slot(()), self.attendance)

    def claim(self, spec: JobSpec) -> Job:
        self.store.submit(spec)
        job = self.store.claim("default", "w")
        assert job is not None
        return job

    def run(self, spec: JobSpec) -> Job:
        job = self.claim(spec)
        supervise(self.service, job)
        return self.store.get(job.id)

    def begin(self, job: Job) -> threading.Thread:
        thread = threading.Thread(target=supervise, args=(self.service, job), daemon=True)
        thread.start()
        return thread

    def files(self, job: Job) -> RunPaths:
        return RunPaths(self.storage.root / job.id)

    def output(self, job: Job) -> str:
        log = self.files(job).output_log
        return log.read_text() if log.exists() else ""


@pytest.fixture
def bench(settings: Settings, store: JobStore) -> Iterator[Bench]:
    bench = Bench(settings.model_copy(update={"grace_seconds": 4}), store)
    yield bench
    bench.service.messenger.close()


def test_a_program_that_knows_nothing_of_us_is_run_and_its_log_kept(bench: Bench) -> None:
    job = bench.run(JobSpec(name="a", command=["sh", "-c", "echo hello; pwd; echo oops >&2"]))
    assert (job.state, job.reason) == (State.SUCCEEDED, Reason.COMPLETED)
    lines = bench.output(job).splitlines()
    assert lines[1] == "[1] hello"
    assert lines[2].endswith(f"{job.id}/1/workspace")
    assert lines[3] == "[1] oops"
    assert "ended: completed" in lines[4]
    kept = json.loads(bench.files(job).job.read_text())
    assert JobSpec.model_validate_json(json.dumps(kept["spec"])) == job.spec
    assert not list(bench.settings.scratch_dir.rglob("*.*"))


def test_files_below_the_run_directory_are_kept(bench: Bench) -> None:
    script = (
        "import os, pathlib; d = pathlib.Path(os.environ['SPECTRAIN_RUN_DIR']); "
        "(d / 'mine').mkdir(); (d / 'mine' / 'x.txt').write_text('kept')"
    )
    job = bench.run(python(script))
    assert (bench.files(job).root / "mine" / "x.txt").read_text() == "kept"


def test_a_failing_program_is_tried_again_and_then_fails_with_its_last_words(bench: Bench) -> None:
    retry = {"max_failures": 1, "backoff_seconds": 0}
    job = bench.run(python("raise ValueError('no way')", retry=retry))
    assert (job.state, job.attempts[0].exit_code) == (State.QUEUED, 1)
    again = bench.store.claim("default", "w")
    assert again is not None
    supervise(bench.service, again)
    job = bench.store.get(job.id)
    assert (job.state, job.reason) == (State.FAILED, Reason.ERROR)
    assert job.message == "exit code 1: ValueError: no way (failed 2 times, 1 retries)"
    assert job.attempts[-1].log_tail[0].startswith("Traceback")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (JobSpec(name="a", command=["no-such-program"]), "cannot start no-such-program"),
        (python("", secrets=["HF_TOKEN"]), "holds no secret named HF_TOKEN"),
        (python("", resources={"gpus": 8}), "asks for 8 GPUs"),
    ],
)
def test_what_can_never_run_fails_at_once_and_says_why(
    bench: Bench, spec: JobSpec, message: str
) -> None:
    job = bench.run(spec)
    assert (job.state, job.reason) == (State.FAILED, Reason.ERROR)
    assert message in job.message


@pytest.mark.parametrize(
    ("grace", "stop", "message"),
    [(4, Attendance.stop, "the worker was told to stop"),
     (600, lambda attendance: attendance.leave("spot notice", 4), "spot notice")],
    ids=["the grace", "the notice of the cloud"],
)  # fmt: skip
def test_a_program_that_ignores_sigterm_is_killed_within_the_grace(
    settings: Settings,
    store: JobStore,
    wait_until: Wait,
    grace: float,
    stop: Callable[[Attendance], None],
    message: str,
) -> None:
    bench = Bench(settings.model_copy(update={"grace_seconds": grace}), store)
    job = bench.claim(python(STUBBORN))
    thread = bench.begin(job)
    wait_until(lambda: "up" in bench.output(job), what="the program")
    stop(bench.attendance)
    thread.join(60)
    assert not thread.is_alive()
    job = bench.store.get(job.id)
    assert (job.state, job.reason) == (State.QUEUED, Reason.PREEMPTED)
    assert job.message == message
    assert job.attempts[0].exit_code == 137
    assert bench.store.redis.llen("spectrain:queue:default") == 1, "a worker is woken for it"
    bench.service.messenger.close()


def test_a_request_reaches_the_program(bench: Bench, wait_until: Wait) -> None:
    job = bench.claim(python("import time; print('up', flush=True); time.sleep(600)"))
    thread = bench.begin(job)
    wait_until(lambda: "up" in bench.output(job), what="the program")
    bench.store.request(job.id, Request.CANCEL)
    thread.join(30)
    assert bench.store.get(job.id).state is State.CANCELLED


@pytest.mark.parametrize(
    ("script", "limits", "reason", "state"),
    [
        ("import time; time.sleep(600)", {"run_seconds": 1}, Reason.TIMEOUT, State.FAILED),
        (BEATS + "heartbeat.beat(0); time.sleep(600)", {"stall_seconds": 1}, Reason.STALLED,
         State.QUEUED),
        ("import os, time; from pathlib import Path; from monitoring import MetricsLogger\n"
         "log = MetricsLogger(os.environ['SPECTRAIN_RUN_DIR'] + '/logs')\n"
         "log.log_metrics(0, {'loss': 1.0}); log.log_metrics(1, {'loss': float('nan')})\n"
         "time.sleep(600)", {}, Reason.DIVERGED, State.FAILED),
        ("import os; from monitoring import MetricsLogger\n"
         "log = MetricsLogger(os.environ['SPECTRAIN_RUN_DIR'] + '/logs')\n"
         "log.log_metrics(0, {'loss': float('inf')})", {}, Reason.DIVERGED, State.FAILED),
    ],
)  # fmt: skip
def test_a_limit_that_is_passed_ends_the_attempt(
    bench: Bench, script: str, limits: dict[str, float], reason: Reason, state: State
) -> None:
    job = bench.run(python(script, limits=limits))
    assert (job.state, job.reason) == (state, reason)


def test_a_program_that_takes_long_to_leave_has_not_stalled(bench: Bench, wait_until: Wait) -> None:
    leaves = (
        "import signal, sys\n"
        "def leave(*_):\n    time.sleep(2)\n    sys.exit(143)\n"
        "signal.signal(15, leave)\n"
        "while True:\n    heartbeat.beat(int(1000 * time.monotonic()))\n    time.sleep(0.01)\n"
    )
    limits, retry = {"stall_seconds": 1}, {"max_failures": 0}
    job = bench.claim(python(BEATS + leaves, limits=limits, retry=retry))
    thread = bench.begin(job)
    wait_until(lambda: _progress(bench, job), what="a step")
    bench.store.request(job.id, Request.PAUSE)
    thread.join(60)
    job = bench.store.get(job.id)
    assert (job.state, job.reason, job.failures) == (State.PAUSED, Reason.PAUSED, 0)


def _progress(bench: Bench, job: Job) -> bool:
    progress = bench.store.get(job.id).progress
    return progress is not None and progress.step is not None


def test_a_lease_is_kept_also_where_the_limits_cannot_be_read(
    bench: Bench, wait_until: Wait
) -> None:
    job = bench.claim(python("import time; print('up', flush=True); time.sleep(600)"))
    thread = bench.begin(job)
    wait_until(lambda: "up" in bench.output(job), what="the program")
    key, spec = f"spectrain:job:{job.id}", job.spec.model_dump_json()
    # As a newer API writes it, when a job is changed in the middle of an upgrade.
    bench.store.redis.hset(key, "spec", json.dumps({**json.loads(spec), "from": "tomorrow"}))
    due = bench.store.redis.zscore("spectrain:leases", job.id)
    longer = due + 2 * bench.settings.lease_seconds  # limits are read once in that of one
    wait_until(lambda: bench.store.redis.zscore("spectrain:leases", job.id) > longer, seconds=20)
    bench.store.redis.hset(key, "spec", spec)
    bench.store.request(job.id, Request.CANCEL)
    thread.join(60)
    assert bench.store.get(job.id).state is State.CANCELLED


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A control group of 256 MiB, which only root can make."""
    group = Path("/sys/fs/cgroup/memory/spectrain-test")  # version 1
    limit, swap = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    if not group.parent.is_dir():
        group = Path("/sys/fs/cgroup/spectrain-test")  # version 2
        limit, swap = "memory.max", "memory.swap.max"
    try:
        group.mkdir(exist_ok=True)
        (group / limit).write_text(str(256 << 20))
    except OSError:
        pytest.skip("making a control group needs root")
    if (group / swap).exists():
        (group / swap).write_text("0" if swap == "memory.swap.max" else str(256 << 20))
    yield group
    group.rmdir()


HOARD = "hoard = [bytearray(b'x' * (1 << 20)) for _ in range(500)]\n"
WORKER_IN_A_GROUP = """
import os, pathlib, sys
from jobs.messages import Messenger
from jobs.settings import Settings, connect
from jobs.store import open_store
from monitoring.storage import open_storage
from worker.launch import Slot
from worker.service import Attendance, Service
from worker.supervisor import supervise
settings = Settings()
store = open_store(connect(settings), settings)
storage = open_storage(settings.storage_url)
service = Service(settings, store, Messenger(settings, store), storage, Slot(()), Attendance())
job = store.claim("default", "w")
pathlib.Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
supervise(service, job)
"""


def test_a_program_that_the_kernel_killed_for_memory_is_told_so(
    bench: Bench, small_memory: Path
) -> None:
    job = bench.store.submit(python(HOARD))
    settings = bench.settings
    subprocess.run(
        [sys.executable, "-c", WORKER_IN_A_GROUP, str(small_memory)],
        env={**os.environ, "SPECTRAIN_REDIS_URL": settings.redis_url,
             "SPECTRAIN_STORAGE_URL": settings.storage_url,
             "SPECTRAIN_SCRATCH_DIR": str(settings.scratch_dir)},
        check=True,
    )  # fmt: skip
    job = bench.store.get(job.id)
    assert (job.state, job.reason) == (State.FAILED, Reason.OUT_OF_MEMORY)
    assert "killed by the kernel" in job.message


def test_a_program_that_somebody_killed_is_not_taken_for_one_of_another_group_that_hoarded(
    bench: Bench, small_memory: Path
) -> None:
    if not any(counter.exists() for counter in memory.own_counters()):
        pytest.skip("the kernel counts for the whole machine here")
    joins = f"open('{small_memory}/cgroup.procs', 'w').write(str(__import__('os').getpid()))\n"
    script = (
        "import os, subprocess, sys\n"
        f"code = subprocess.run([sys.executable, '-c', {joins + HOARD!r}]).returncode\n"
        "print('the other one:', code, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    job = bench.run(python(script))
    assert "the other one: -9" in bench.output(job)
    assert (job.state, job.reason) == (State.QUEUED, Reason.ERROR)


def test_a_limit_that_is_changed_counts_for_the_attempt_under_way(
    bench: Bench, wait_until: Wait
) -> None:
    job = bench.claim(python("import time; print('up', flush=True); time.sleep(600)"))
    thread = bench.begin(job)
    wait_until(lambda: "up" in bench.output(job), what="the program")
    bench.store.change(job.id, JobChange(limits=LimitsChange(run_seconds=1)))
    thread.join(60)
    assert bench.store.get(job.id).reason is Reason.TIMEOUT


def test_steps_are_counted_exactly_without_asking_the_program(bench: Bench) -> None:
    job = bench.run(python(BEATS + "for step in range(5, 43): heartbeat.beat(step)"))
    assert (job.attempts[0].first_step, job.attempts[0].last_step) == (5, 42)


SAVING = """
import os, time, torch
from monitoring import CheckpointManager, MetricsLogger, preemption
root = os.environ["SPECTRAIN_RUN_DIR"]
manager, logger = CheckpointManager(root, save_interval=10), MetricsLogger(root + "/logs", 1)
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters())
checkpoint = manager.load_latest_checkpoint() if LOADS else None
start = checkpoint["step"] + 1 if checkpoint else 0
for step in range(start, int(os.environ.get("STEPS", "30"))):
    if preemption.stop_requested():
        manager.save_checkpoint(step - 1, model, optimizer, [], {})
        raise SystemExit(143)
    logger.log_metrics(step, {"loss": 1.0})
    if manager.should_checkpoint(step):
        manager.save_checkpoint(step, model, optimizer, [], {})
    print(step, flush=True)
    time.sleep(0.02)
    while step == 15 and os.environ["SPECTRAIN_ATTEMPT"] == "1" and not preemption.stop_requested():
        time.sleep(0.01)
"""


def saving(*, loads: bool, **fields: Any) -> JobSpec:
    """A program that saves each ten steps, and goes on from its checkpoint or does not."""
    return python(SAVING.replace("LOADS", str(loads)), **fields)


def preempted_once(bench: Bench, spec: JobSpec, wait_until: Wait) -> Job:
    """The job after its first attempt was preempted at step 15 and its second has ended."""
    job = bench.claim(spec)
    thread = bench.begin(job)
    wait_until(lambda: "[1] 15\n" in bench.output(job), what="some steps")
    bench.store.request(job.id, Request.PREEMPT)
    thread.join(30)
    again = bench.store.claim("default", "w")
    assert again is not None
    supervise(bench.service, again)
    return bench.store.get(job.id)


def test_a_receipt_says_what_each_attempt_waited_for_and_did(
    bench: Bench, wait_until: Wait
) -> None:
    job = preempted_once(bench, saving(loads=True), wait_until)
    assert job.state is State.SUCCEEDED
    first, second = job.attempts
    assert (first.first_step, first.last_step, first.checkpoint_step) == (0, 15, 15)
    assert (second.resumed_from, second.first_step, second.last_step) == (15, 16, 29)
    assert second.resumed_checksum is not None
    assert first.steps_recomputed == second.steps_recomputed == 0
    for attempt in job.attempts:
        assert attempt.queue_seconds is not None
        assert attempt.restore_seconds is not None
        assert attempt.first_step_seconds is not None
        assert 0 <= attempt.queue_seconds < 60
        assert 0 <= attempt.restore_seconds <= attempt.first_step_seconds
        assert attempt.step_seconds >= 0.02 * ((attempt.last_step or 0) - (attempt.first_step or 0))
        assert attempt.uploaded_bytes > bench.files(job).checkpoint(10).stat().st_size
        kept = json.loads(bench.files(job).attempt(attempt.number).read_text())
        assert kept == attempt.model_dump(mode="json")
    useful = first.step_seconds + second.step_seconds
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.goodput_at(0) == pytest.approx(useful / (job.finished_at - job.started_at))


def test_a_worker_that_was_killed_after_its_receipt_leaves_none_that_differs_from_the_record(
    bench: Bench, tmp_path: Path
) -> None:
    job = bench.claim(python(""))
    lost = lost_attempt(job, at=bench.store.now(), silent_seconds=3)
    early = tmp_path / "1.json"
    early.write_text(lost.model_copy(update={"reason": Reason.COMPLETED}).model_dump_json())
    bench.storage.put(f"{job.id}/attempts/1.json", early, Fence(job.id, 1))
    bench.store.finish(job.id, lost)
    again = bench.store.claim("default", "w")
    assert again is not None
    supervise(bench.service, again)
    kept = [json.loads(bench.files(job).attempt(n).read_text())["reason"] for n in (1, 2)]
    assert kept == [a.reason for a in bench.store.get(job.id).attempts] == ["lost", "completed"]


def test_saves_that_do_not_fit_into_the_grace_are_told_in_numbers(bench: Bench) -> None:
    bench = Bench(bench.settings.model_copy(update={"grace_seconds": 0.001}), bench.store)
    spec = saving(loads=True, env={"STEPS": "15"})
    job = bench.run(spec)
    (event,) = [e for e in bench.store.events(job.id) if e.type == "grace_too_short"]
    assert event.data["grace_seconds"] == 0.001
    assert float(event.data["save_seconds"] or 0) > 0
    assert "a save took" in bench.output(job)
    bench.service.messenger.close()


@pytest.mark.parametrize("steps", [30, 2000], ids=["it ends before it is stopped", "it is stopped"])
def test_a_program_that_forgets_its_checkpoint_is_told_so_and_spoils_no_file(
    bench: Bench, wait_until: Wait, steps: int
) -> None:
    job = preempted_once(bench, saving(loads=False, env={"STEPS": str(steps)}), wait_until)
    assert (job.state, job.reason) == (State.FAILED, Reason.ERROR)
    assert "began at step 0 although it had a checkpoint" in job.message
    assert job.checkpoint_step == 15
    run = bench.files(job)
    assert {record.step for record, _ in commit.committed(run.checkpoints)} == {10, 15}
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(16)), "one curve, the one it had"
    assert "[2] 0\n" in bench.output(job)
    receipts = [json.loads(run.attempt(number).read_text()) for number in (1, 2)]
    assert [receipt["reason"] for receipt in receipts] == ["preempted", "error"]


def test_a_program_may_begin_anew_where_the_specification_says_so(
    bench: Bench, wait_until: Wait
) -> None:
    spec = saving(loads=False, restart="from_scratch", env={"STEPS": "30"})
    job = preempted_once(bench, spec, wait_until)
    assert job.state is State.SUCCEEDED
    assert (job.attempts[-1].first_step, job.attempts[-1].steps_recomputed) == (0, 16)


def test_an_overtaken_attempt_is_killed_and_leaves_no_trace(bench: Bench, wait_until: Wait) -> None:
    job = bench.claim(python(STUBBORN))
    thread = bench.begin(job)
    wait_until(lambda: "up" in bench.output(job), what="the program")
    attempt = job.attempts[-1].model_copy(update={"reason": Reason.LOST, "ended_at": 1.0})
    leases = bench.store.queues.expired_leases(bench.store.now() + 60)
    while bench.store.finish(job.id, attempt, lease=leases[0]) is None:
        leases = bench.store.queues.expired_leases(bench.store.now() + 60)
    newer = bench.store.claim("default", "other")
    assert newer is not None
    before = bench.output(job)
    thread.join(30)
    assert not thread.is_alive()
    assert bench.output(job) == before
    assert not list(bench.settings.scratch_dir.rglob("*.*"))
    job = bench.store.get(job.id)
    assert (job.state, job.attempt, job.worker) == (State.RUNNING, 2, "other")


@pytest.fixture
def own_redis(tmp_path: Path, wait_until: Wait) -> Iterator[tuple[RedisConfig, Callable[[], Any]]]:
    """A Redis that a test may take away: its configuration, and what starts it again."""
    config = RedisConfig(tmp_path / "own-redis")
    running: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [find_redis_server(), str(config.path)], stdout=subprocess.DEVNULL
        )
        running.append(process)
        wait_until(config.answers, what="Redis")
        return process

    yield config, start
    for process in running:
        process.kill()
        process.wait()


def test_redis_away_longer_than_the_lease_costs_no_step_and_no_attempt(
    settings: Settings, own_redis: tuple[RedisConfig, Callable[[], Any]], wait_until: Wait
) -> None:
    config, start = own_redis
    redis = start()
    settings = settings.model_copy(update={"redis_url": config.url, "lease_seconds": 1})
    client = connect(settings)
    bench = Bench(settings, JobStore(client, lease_seconds=1))
    script = BEATS + "for step in range(60): heartbeat.beat(step); print(step, flush=True); "
    job = bench.claim(python(script + "time.sleep(0.1)"))
    thread = bench.begin(job)
    wait_until(lambda: "[1] 9\n" in bench.output(job), what="some steps")
    redis.kill()
    redis.wait()
    wait_until(lambda: "[1] 40\n" in bench.output(job), what="steps without Redis")
    start()
    thread.join(60)
    job = bench.store.get(job.id)
    assert (job.state, job.attempt, job.attempts[0].last_step) == (State.SUCCEEDED, 1, 59)
    bench.service.messenger.close()
    client.close()


def test_storage_away_costs_no_step_and_no_line(
    bench: Bench, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory's disk is full: every write to it fails, for a while."""
    job = bench.claim(python(
        "import time\nfor n in range(60): print(n, flush=True); time.sleep(0.1)"
    ))  # fmt: skip
    thread = bench.begin(job)
    wait_until(lambda: "[1] 9\n" in bench.output(job), what="some lines")
    away = bench.storage.root.with_name("away")
    bench.storage.root.rename(away)
    bench.storage.root.write_text("not a directory")
    wait_until(lambda: not thread.is_alive() or _printed(bench, job, 40), what="lines meanwhile")
    bench.storage.root.unlink()
    away.rename(bench.storage.root)
    thread.join(60)
    job = bench.store.get(job.id)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 1)
    lines = [line for line in bench.output(job).splitlines() if "---" not in line]
    assert lines == [f"[1] {n}" for n in range(60)]


def test_storage_away_at_the_start_is_waited_for(bench: Bench, wait_until: Wait) -> None:
    bench.storage.root.parent.mkdir(exist_ok=True)
    bench.storage.root.write_text("not a directory")
    job = bench.claim(python("print('up')"))
    thread = bench.begin(job)
    thread.join(1)
    assert thread.is_alive()
    bench.storage.root.unlink()
    thread.join(30)
    job = bench.store.get(job.id)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 1)


@pytest.mark.parametrize(
    "script",
    [
        "import shutil, pathlib, os; d = os.environ['SPECTRAIN_RUN_DIR']; shutil.rmtree(d); "
        "pathlib.Path(d).mkdir(); (pathlib.Path(d) / 'weights.bin').write_text('kept')",
        "import pathlib, os; d = pathlib.Path(os.environ['SPECTRAIN_RUN_DIR']); "
        "(d / 'logs/metrics.jsonl').write_text('{\"step\": 1, \"loss\": 1' + '0' * 400 + '}\\n'"
        " + '[' * 100000 + '\\n'); (d / 'weights.bin').write_text('kept')",
        "import pathlib, os; d = pathlib.Path(os.environ['SPECTRAIN_RUN_DIR']); "
        "(d / 'logs/metrics.jsonl').mkdir(); (d / 'checkpoints/checkpoint_step_5.pt.json').mkdir();"
        " os.mkfifo(d / 'pipe'); (d / 'weights.bin').write_text('kept')",
        "import pathlib, os; d = pathlib.Path(os.environ['SPECTRAIN_RUN_DIR']); "
        "(d / 'attempts').write_text('mine'); (d / 'weights.bin').write_text('kept')",
    ],
    ids=["clears its directory", "rows like no other", "a directory for a file", "our names"],
)
def test_nothing_that_a_job_does_to_its_directory_costs_its_results(
    bench: Bench, script: str
) -> None:
    job = bench.run(python(script))
    assert (job.state, job.attempt) == (State.SUCCEEDED, 1), job.message
    assert (bench.files(job).root / "weights.bin").read_text() == "kept"


def _printed(bench: Bench, job: Job, line: int) -> bool:
    output = bench.settings.scratch_dir / job.id / "1" / "output"
    return output.exists() and f"{line}\n" in output.read_text()


def test_a_worker_without_redis_waits_and_says_so_and_then_works(
    settings: Settings,
    own_redis: tuple[RedisConfig, Callable[[], Any]],
    wait_until: Wait,
    tmp_path: Path,
) -> None:
    config, start = own_redis
    log = tmp_path / "worker.log"
    environment = {
        "PATH": "/usr/bin:/bin",
        "SPECTRAIN_REDIS_URL": config.url,
        "SPECTRAIN_STORAGE_URL": settings.storage_url,
        "SPECTRAIN_SCRATCH_DIR": str(settings.scratch_dir),
        "SPECTRAIN_DEVICE": "cpu",
    }
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker"], env=environment, stderr=file, stdout=file
        )
    try:
        where = f"cannot reach Redis at 127.0.0.1:{config.port}, waiting for it"
        wait_until(lambda: where in log.read_text(), what="the worker's word")
        assert worker.poll() is None
        start()
        settings = settings.model_copy(update={"redis_url": config.url})
        client = connect(settings)
        store = JobStore(client, lease_seconds=3)
        jobs = [store.submit(JobSpec(name="a", command=["true"])).id for _ in range(3)]
        store.redis.delete("spectrain:outbox")  # nothing else wakes the worker
        messenger = Messenger(settings, store)
        messenger.announce("default", jobs[0])
        for job in jobs:  # one message is enough for all
            wait_until(lambda: store.get(job).state is State.SUCCEEDED, what="the job")  # noqa: B023
        messenger.close()
        client.close()
        assert "Traceback" not in log.read_text()
        assert ":".join(config.url.split(":")[2:3]).split("@")[0] not in log.read_text()
        family = psutil.Process(worker.pid).children(recursive=True)
        assert [p.cmdline()[2] for p in family] == ["worker.launcher"]
    finally:
        worker.terminate()
        worker.wait(30)
    assert worker.returncode == 0
    assert not psutil.wait_procs(family, timeout=10)[1]


def test_a_redis_that_refuses_writes_ends_neither_worker_nor_job(
    settings: Settings,
    own_redis: tuple[RedisConfig, Callable[[], Any]],
    wait_until: Wait,
    tmp_path: Path,
) -> None:
    config, start = own_redis
    start()
    client = connect(settings.model_copy(update={"redis_url": config.url}))
    store = JobStore(client, lease_seconds=1)
    environment = {
        "PATH": "/usr/bin:/bin",
        "SPECTRAIN_REDIS_URL": config.url,
        "SPECTRAIN_STORAGE_URL": settings.storage_url,
        "SPECTRAIN_SCRATCH_DIR": str(settings.scratch_dir),
        "SPECTRAIN_DEVICE": "cpu",
        "SPECTRAIN_LEASE_SECONDS": "1",
        "SPECTRAIN_WARM_START": "0",
    }
    log = tmp_path / "worker.log"
    with log.open("wb") as file:
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "worker"], env=environment, stderr=file, stdout=file
            )
            for _ in range(2)
        ]
    try:
        wait_until(lambda: client.zcard("spectrain:workers") == 2, what="the workers")
        gate = tmp_path / "gate"
        command = ["sh", "-c", f"until test -e {gate}; do sleep 0.1; done"]
        running = store.submit(JobSpec(name="a", command=command))
        wait_until(lambda: store.get(running.id).state is State.RUNNING, what="its start")
        # As in a failover: readable, and nothing can be written; what waits is thrown out.
        client.replicaof("127.0.0.1", 1)
        wait_until(lambda: "Connection to broker lost" in log.read_text(), what="the refusal")
        wait_until(lambda: store.queues.expired_leases(time.time()), what="an expired lease")
        client.replicaof("NO", "ONE")
        waiting = store.submit(JobSpec(name="b", command=["true"]))
        wait_until(lambda: store.get(waiting.id).state is State.SUCCEEDED, what="the next job")
        gate.touch()
        wait_until(lambda: store.get(running.id).state is State.SUCCEEDED, what="the first job")
        assert store.get(running.id).attempt == 1
        assert [worker.poll() for worker in workers] == [None, None]
        assert "Traceback" not in log.read_text()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        client.close()


@pytest.mark.parametrize("ahead", [0.0, 1e6], ids=["slow storage", "a clock that is ahead"])
def test_neither_slow_storage_nor_a_clock_that_is_ahead_hides_a_lost_attempt(
    bench: Bench, wait_until: Wait, ahead: float
) -> None:
    store = JobStore(bench.store.redis, lease_seconds=0.2)
    job = store.submit(python(""))
    assert store.claim("default", "silent") is not None
    started = store.now()

    def sign(_: Job) -> float:
        threading.Event().wait(0.3)
        return started + ahead

    reaper = Reaper(store, bench.service.messenger, sign)
    wait_until(lambda: reaper.run_once() == [job.id], what="the verdict", seconds=20)


def test_the_reaper_finds_a_lost_attempt_and_a_lost_message(bench: Bench, wait_until: Wait) -> None:
    store = JobStore(bench.store.redis, lease_seconds=0.2)
    job = store.submit(python(""))
    assert store.claim("default", "silent") is not None
    reaper = Reaper(store, bench.service.messenger, lambda _: None)
    wait_until(lambda: reaper.run_once() == [job.id], what="the verdict")
    after = store.get(job.id)
    assert (after.state, after.attempts[0].reason) == (State.QUEUED, Reason.LOST)
    assert store.redis.llen("spectrain:queue:default") == 1
    store.redis.delete("spectrain:queue:default")
    reaper.run_once()
    assert store.redis.llen("spectrain:queue:default") == 1
    second = Reaper(store, bench.service.messenger, lambda _: None)
    store.redis.delete("spectrain:queue:default")
    assert second.run_once() == []
    assert store.redis.llen("spectrain:queue:default") == 0, "only one reaper is at work"
