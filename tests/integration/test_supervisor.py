"""Attempts of real programs, with a real Redis and a real storage directory."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.model.change import JobChange, LimitsChange
from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from tests.integration.one_worker import BEATS, STUBBORN, Bench, python
from worker.attempt.context import ShutdownState
from worker.attempt.supervisor import supervise
from worker.files.publish import Publisher
from worker.losses import memory

Wait = Callable[..., Any]


def test_a_program_that_knows_nothing_of_us_is_run_and_its_log_kept(bench: Bench) -> None:
    job = bench.run(JobSpec(name="a", command=["sh", "-c", "echo hello; pwd; echo oops >&2"]))
    assert (job.state, job.reason) == (State.SUCCEEDED, Reason.COMPLETED)
    lines = bench.output(job).splitlines()
    assert lines[1] == "[1] hello"
    assert lines[2].endswith(f"{job.id}/0/{job.id}/work")
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
    script = "import os; raise ValueError('no way', os.environ['SPECTRAIN_ATTEMPT'])"
    job = bench.run(python(script, retry=retry))
    assert (job.state, job.attempts[0].exit_code) == (State.QUEUED, 1)
    again = bench.store.claim("default", "w")
    assert again is not None
    supervise(bench.service, again)
    job = bench.store.get(job.id)
    assert (job.state, job.reason) == (State.FAILED, Reason.ERROR)
    message = "exit code 1: ValueError: ('no way', '2') (failed 2 times, 1 retries)"
    assert job.message == message
    assert job.attempts[-1].log_tail[0].startswith("Traceback")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (JobSpec(name="a", command=["no-such-program"]), "cannot start no-such-program"),
        (python("", secrets=["HF_TOKEN"]), "has no secret named HF_TOKEN"),
        (python("", resources={"gpus": 8}), "requests 8 GPUs"),
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
    [(4, ShutdownState.stop, "the worker was told to stop"),
     (600, lambda shutdown_state: shutdown_state.leave("spot notice", 4), "spot notice")],
    ids=["the grace", "the notice of the cloud"],
)  # fmt: skip
def test_a_program_that_ignores_sigterm_is_killed_within_the_grace(
    settings: Settings,
    store: JobStore,
    wait_until: Wait,
    grace: float,
    stop: Callable[[ShutdownState], None],
    message: str,
) -> None:
    bench = Bench(settings.model_copy(update={"grace_seconds": grace}), store)
    job = bench.claim(python(STUBBORN))
    thread = bench.begin(job)
    wait_until(lambda: "up" in bench.output(job), what="the program")
    stop(bench.shutdown_state)
    thread.join(60)
    assert not thread.is_alive()
    job = bench.store.get(job.id)
    assert (job.state, job.reason) == (State.QUEUED, Reason.PREEMPTED)
    assert job.message == message
    assert job.attempts[0].exit_code == 137
    queue = bench.store.keys.queue("default")
    assert bench.store.redis.llen(queue) == 1, "a worker is woken for it"
    bench.service.messenger.close()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_trainer_behind_a_shell_saves_on_its_signal(
    bench: Bench, wait_until: Wait, name: str
) -> None:
    script = (
        "import os, pathlib, signal, sys, time\n"
        "got = []\n"
        f"signal.signal(signal.{name}, lambda *_: got.append(1))\n"
        "print('up', flush=True)\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(1)\n"
        "pathlib.Path(os.environ['SPECTRAIN_RUN_DIR'], 'saved').write_text('all')\n"
    )
    command = ["bash", "-c", f"python -c {shlex.quote(script)} | tee log; echo next stage"]
    job = bench.claim(
        JobSpec.model_validate({"name": "a", "command": command, "stop_signal": name})
    )
    thread = bench.begin(job)
    wait_until(lambda: "up" in bench.output(job), what="the program")
    bench.shutdown_state.stop()
    bench.shutdown_state.stop()
    thread.join(60)
    job = bench.store.get(job.id)
    assert (job.state, job.reason) == (State.QUEUED, Reason.PREEMPTED)
    assert (bench.files(job).root / "saved").read_text() == "all"
    assert "next stage" not in bench.output(job)


def test_a_request_made_between_the_claim_and_the_start_is_read_at_once(
    settings: Settings, store: JobStore
) -> None:
    rarely = settings.model_copy(update={"lease_seconds": 3000, "grace_seconds": 4})
    bench = Bench(rarely, store)
    job = bench.claim(python("import time; time.sleep(600)"))
    store.request(job.id, Request.CANCEL)
    thread = bench.begin(job)
    thread.join(20)
    bench.service.messenger.close()
    assert not thread.is_alive(), "it waits for the next renewal, in ten minutes"
    assert store.get(job.id).reason is Reason.CANCELLED


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
        (BEATS + "step_counter.beat(0); time.sleep(600)", {"stall_seconds": 1}, Reason.STALLED,
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


@pytest.mark.parametrize("alive", ["monitoring.heartbeat()", "step_counter.beat(0)"])
def test_a_long_evaluation_that_gives_signs_of_life_has_not_stalled_and_a_silent_one_has(
    bench: Bench, alive: str
) -> None:
    script = (
        "import monitoring\nstep_counter.beat(0)\n"
        f"for _ in range(40):\n    time.sleep(0.1)\n    {alive}\n"
        "print('evaluated', flush=True)\n"
        "time.sleep(600)\n"
    )
    job = bench.run(python(BEATS + script, limits={"stall_seconds": 1.5}))
    assert job.reason is Reason.STALLED
    assert "evaluated" in bench.output(job)
    assert job.message == "no step and no heartbeat for longer than limits.stall_seconds"


def test_a_program_that_takes_long_to_leave_has_not_stalled(bench: Bench, wait_until: Wait) -> None:
    leaves = (
        "import signal, sys\n"
        "def leave(*_):\n    time.sleep(2)\n    sys.exit(143)\n"
        "signal.signal(15, leave)\n"
        "while True:\n    step_counter.beat(int(1000 * time.monotonic()))\n    time.sleep(0.01)\n"
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
    store, keys = bench.store, bench.store.keys
    key, spec = keys.job(job.id), job.spec.model_dump_json()
    # As a newer API writes it, when a job is changed in the middle of an upgrade.
    bench.store.redis.hset(key, "spec", json.dumps({**json.loads(spec), "from": "tomorrow"}))
    due = store.redis.zscore(keys.leases, job.id)
    longer = due + 2 * bench.settings.lease_seconds  # limits are read once in that of one
    wait_until(lambda: store.redis.zscore(keys.leases, job.id) > longer, seconds=20)
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
from jobs.store.jobs import open_store
from monitoring.storage.open import open_storage
from worker.launch.prepare import Slot
from worker.attempt.context import ShutdownState, WorkerContext
from worker.attempt.supervisor import supervise
from worker.files.publish import Publisher
from worker.losses import memory
settings = Settings()
store = open_store(connect(settings), settings)
storage = open_storage(settings.storage_url)
messenger = Messenger(settings, store)
service = WorkerContext(settings, store, messenger, storage, Slot(()), ShutdownState())
job = store.claim("default", "w")
pathlib.Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
supervise(service, job)
"""


def test_a_program_that_the_kernel_oom_killed_is_told_so(bench: Bench, small_memory: Path) -> None:
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
    job = bench.run(python(BEATS + "for step in range(5, 43): step_counter.beat(step)"))
    assert (job.attempts[0].first_step, job.attempts[0].last_step) == (5, 42)


def test_a_job_that_has_ended_shows_its_last_step_and_not_that_of_the_last_renewal(
    bench: Bench,
) -> None:
    settings = bench.settings.model_copy(update={"lease_seconds": 300})  # renewed once a minute
    script = (
        "step_counter.beat(0); time.sleep(2)\nfor step in range(1, 43): step_counter.beat(step)"
    )
    rarely = Bench(settings, bench.store)
    job = rarely.run(python(BEATS + script))
    rarely.service.messenger.close()
    assert job.progress is not None
    assert job.progress.step == job.attempts[0].last_step == 42


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


def test_a_worker_learns_that_somebody_follows_its_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[bool] = []
    monkeypatch.setattr(
        Publisher, "note_followed", lambda _, is_followed: noted.append(is_followed)
    )
    job = bench.claim(python("import time; time.sleep(2)"))
    bench.store.follow(job.id)
    supervise(bench.service, job)
    assert True in noted
