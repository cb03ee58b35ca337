"""A worker that dies is noticed by whoever stands next to it, and no other one is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.messages import Messenger
from jobs.model.record import Job
from jobs.model.rules import lost_attempt
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from tests.integration.one_worker import BEATS, Bench, python
from tests.integration.warm_python import Program
from tests.integration.worker_processes import Workers
from tests.processes import command_line
from worker.losses import memory
from worker.losses import note as notes_module
from worker.losses.memory import Memory
from worker.losses.note import Note, NoteFile, abandoned, notes
from worker.losses.report import end_attempt
from worker.losses.watch import LossWatch

Wait = Callable[..., Any]
Stepping = tuple[Program, Job]
# So long that no lease ends within a test.
LEASE = "600"
STEPPING = (
    BEATS + "for step in range(10 ** 6):\n    step_counter.beat(step)\n    time.sleep(0.05)\n"
)


@pytest.fixture
def container(wait_until: Wait) -> Iterator[Path]:
    """A memory control group of 256 MiB, which only root can make."""
    group = Path("/sys/fs/cgroup/memory/spectrain-container")  # version 1
    limit = "memory.limit_in_bytes"
    if not group.parent.is_dir():
        group, limit = Path("/sys/fs/cgroup/spectrain-container"), "memory.max"
    try:
        group.mkdir(exist_ok=True)
        (group / limit).write_text(str(256 << 20))
    except OSError:
        pytest.skip("making a control group needs root")
    for swap, most in (("memory.swap.max", "0"), ("memory.memsw.limit_in_bytes", str(256 << 20))):
        if (group / swap).exists():
            (group / swap).write_text(most)
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text(), what="an empty group")
    group.rmdir()


def running(store: JobStore, job: Job, attempt: int = 1) -> Callable[[], bool]:
    def found() -> bool:
        now = store.get(job.id)
        step = now.progress.step if now.progress else None
        return now.attempt == attempt and step is not None

    return found


def tree_of(worker: psutil.Process) -> list[psutil.Process]:
    return worker.children(recursive=True)


@pytest.mark.parametrize("warm", ["0", "1"])
def test_a_killed_workers_attempt_ends_at_once_and_another_worker_goes_on(
    workers: Workers,
    store: JobStore,
    messenger: Messenger,
    wait_until: Wait,
    settings: Settings,
    warm: str,
) -> None:
    env = {"SPECTRAIN_LEASE_SECONDS": LEASE, "SPECTRAIN_WARM_START": warm}
    started = [workers.start(**env) for _ in range(2)]
    job = store.submit(python(STEPPING))
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=600)
    wait_until(lambda: len(registry.workers()) == 2, what="the workers")
    messenger.flush(store.now())
    wait_until(running(store, job), what="a step")
    name = store.get(job.id).worker
    assert name is not None
    (worker,) = [p for p in started if f"-{p.pid}-" in name]
    tree = tree_of(psutil.Process(worker.pid))
    before, killed = time.time(), time.monotonic()
    worker.kill()
    wait_until(lambda: store.get(job.id).attempt == 2, what="the next attempt")
    assert time.monotonic() - killed < 60, "far less than its lease"
    ended = store.get(job.id).attempts[0]
    assert (ended.reason, ended.message) == (Reason.LOST, f"worker {name} was killed, or crashed")
    assert ended.detect_seconds is not None
    assert 0 <= ended.detect_seconds <= (ended.ended_at or 0) - before + 1
    assert ended.last_step is not None
    assert not psutil.wait_procs(tree, timeout=10)[1], "its tree is gone, guard and witness too"
    assert [w.name for w in registry.workers() if w.name == name] == []
    events = [event.type for event in store.events(job.id)]
    assert events.count("requeued") == 1
    wait_until(lambda: len(notes(settings.scratch_dir)) == 1, what="the other note's removal")


@pytest.fixture
def stepping(workers: Workers, store: JobStore, messenger: Messenger, wait_until: Wait) -> Stepping:
    """A worker whose lease ends long after the test, and its job, which makes steps."""
    worker = workers.start(SPECTRAIN_LEASE_SECONDS=LEASE)
    job = store.submit(python(STEPPING))
    messenger.flush(store.now())
    wait_until(running(store, job), what="a step")
    return worker, job


def test_an_attempt_does_not_end_before_the_processes_of_its_job(
    store: JobStore, stepping: Stepping, wait_until: Wait
) -> None:
    worker, job = stepping
    (guard,) = [
        process
        for process in psutil.Process(worker.pid).children()
        if "worker.launch.guard" in command_line(process)
    ]
    guard.suspend()
    worker.kill()
    time.sleep(2)
    assert store.get(job.id).state is State.RUNNING, "its program still runs"
    guard.resume()
    wait_until(lambda: store.get(job.id).state is State.QUEUED, what="the end", seconds=10)


def test_a_worker_that_is_restarted_ends_the_attempt_that_lost_all_its_processes(
    workers: Workers, store: JobStore, stepping: Stepping, wait_until: Wait, settings: Settings
) -> None:
    """As in a container, where the kernel kills all processes together."""
    worker, job = stepping
    processes = [*tree_of(psutil.Process(worker.pid)), psutil.Process(worker.pid)]
    for process in processes:
        process.suspend()
    for process in processes:
        process.kill()
    worker.wait(30)
    psutil.wait_procs(processes, timeout=10)
    assert store.get(job.id).state is State.RUNNING
    assert len(notes(settings.scratch_dir)) == 1
    workers.start(SPECTRAIN_LEASE_SECONDS=LEASE)
    wait_until(running(store, job, 2), what="the next attempt")
    assert store.get(job.id).attempts[0].reason is Reason.LOST


def test_a_worker_that_stands_still_is_not_dead(
    workers: Workers, store: JobStore, stepping: Stepping
) -> None:
    worker, job = stepping
    tree = [psutil.Process(worker.pid), *tree_of(psutil.Process(worker.pid))]
    for process in tree:
        process.suspend()
    other = workers.start(SPECTRAIN_LEASE_SECONDS="1")  # it looks five times a second
    time.sleep(4)
    for process in tree:
        process.resume()
    os.kill(other.pid, signal.SIGTERM)
    assert other.wait(30) == 0
    found = store.get(job.id)
    assert (found.state, found.attempt) == (State.RUNNING, 1)
    assert all(process.is_running() for process in tree)


def noted_job(bench: Bench, **fields: Any) -> tuple[Job, Path]:
    """A running job, and its note, which no process holds."""
    job = bench.claim(python("pass"))
    steps = bench.settings.scratch_dir / "steps"
    note = Note.here(job.id, job.attempt, job.worker or "", steps)
    file = NoteFile.create(bench.settings.scratch_dir, note)
    file._note = replace(note, **fields)
    file._write()
    os.close(file._descriptor)
    return job, file.path


def watch(bench: Bench) -> LossWatch:
    return LossWatch(bench.settings.scratch_dir, bench.store, bench.service.messenger)


def test_a_note_that_a_process_holds_is_nobodys_to_judge(bench: Bench) -> None:
    job = bench.claim(python("pass"))
    note = Note.here(job.id, job.attempt, "w", Path("/nowhere"))
    file = NoteFile.create(bench.settings.scratch_dir, note)
    assert watch(bench).run_once() == []
    guard = notes_module.hold(file.path)
    assert guard is not None
    os.close(file._descriptor)  # as its worker dies
    assert watch(bench).run_once() == []
    os.close(guard)
    assert watch(bench).run_once() == [job.id]
    assert bench.store.get(job.id).state is State.QUEUED
    assert notes(bench.settings.scratch_dir) == []


def test_a_machine_that_was_restarted_knows_that_its_attempts_are_dead(bench: Bench) -> None:
    job, path = noted_job(bench, boot="an earlier one")
    assert watch(bench).run_once() == [job.id]
    ended = bench.store.get(job.id).attempts[0]
    assert (ended.reason, ended.message) == (Reason.LOST, "the machine of worker w was restarted")
    assert not path.exists()


def test_the_note_of_another_machine_or_of_a_copied_disk_proves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, _ = noted_job(bench, boot="an earlier one", host="elsewhere")
    assert watch(bench).run_once() == []
    assert bench.store.get(other.id).state is State.RUNNING
    bench.store.finish(other.id, lost_attempt(bench.store.get(other.id), bench.store.now(), 1.0))
    bench.store.request(other.id, Request.CANCEL)
    copied, path = noted_job(bench, boot="an earlier one")
    watching = watch(bench)
    # Its worker lives where the disk was copied from, and renews its lease.
    monkeypatch.setattr(
        watching._stopping, "wait", lambda _: bench.store.renew(copied.id, copied.attempt)
    )
    assert watching.run_once() == []
    assert bench.store.get(copied.id).state is State.RUNNING
    assert path.exists()


def test_an_attempt_is_ended_once_whoever_reports_first(bench: Bench) -> None:
    job, path = noted_job(bench)
    with abandoned(path) as note:
        assert note is not None
        assert watch(bench).run_once() == [], "the note has its reporter"
        (lease,) = bench.store.queues.expired_leases(bench.store.now() + 100)
        late = lost_attempt(bench.store.get(job.id), bench.store.now(), 9.0)
        assert bench.store.finish(job.id, late, lease=lease) is not None  # the reaper was first
        again = bench.store.claim("default", "w2")
        assert again is not None
        assert end_attempt(bench.store, note, "too late") is None
    now = bench.store.get(job.id)
    assert (now.state, now.attempt, now.worker) == (State.RUNNING, 2, "w2")
    assert watch(bench).run_once() == []
    assert notes(bench.settings.scratch_dir) == [], "and the note is gone"
    assert [e.type for e in bench.store.events(job.id)].count("requeued") == 1


def test_half_a_note_is_removed_and_no_other_file(bench: Bench) -> None:
    _, path = noted_job(bench)
    path.write_bytes(b'{"job": "a')
    assert watch(bench).run_once() == []
    assert not path.exists()


def start_in(container: Path, workers: Workers) -> Program:
    worker = workers.start(SPECTRAIN_LEASE_SECONDS=LEASE)
    for process in [psutil.Process(worker.pid), *tree_of(psutil.Process(worker.pid))]:
        (container / "cgroup.procs").write_text(str(process.pid))
    return worker


# It fills more than half of the group before it runs out of memory.
HOARDER = (
    BEATS + "import pathlib, sys\n"
    "step_counter.beat(0)\n"
    "hoard = [b'x' * (1 << 20) for _ in range(160)]\n"
    "print('half', flush=True)\n"
    "while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\n"
    "while True: hoard.append(b'x' * (1 << 20))\n"
)


@pytest.mark.parametrize("same_group", [True, False], ids=["the same group", "a new container"])
def test_a_container_that_ran_out_of_memory_with_all_its_processes_says_so(
    workers: Workers, bench: Bench, wait_until: Wait, container: Path, tmp_path: Path,
    *, same_group: bool,
) -> None:  # fmt: skip
    """As with `memory.oom.group`, which Kubernetes sets: worker and guard die with the job."""
    store, go = bench.store, tmp_path / "go"
    command = ["python", "-c", HOARDER, str(go)]
    job = store.submit(JobSpec.model_validate({"name": "a", "command": command}))
    before = memory.oom_kills()
    worker = start_in(container, workers)
    bench.service.messenger.flush(store.now())
    wait_until(lambda: "half" in bench.output(job), what="the program")
    path = notes(bench.settings.scratch_dir)[0]

    def noted() -> float:
        note = Note.read(path)
        return note.memory.used if note else 0.0

    wait_until(lambda: noted() > 0.5, what="a note of what is used")
    processes = [psutil.Process(worker.pid), *tree_of(psutil.Process(worker.pid))]
    program = next(p for p in processes if {"-c", str(go)} <= set(command_line(p)))
    processes.remove(program)
    for process in processes:
        process.suspend()
    go.touch()
    wait_until(lambda: program.status() == psutil.STATUS_ZOMBIE, what="the kernel's kill")
    for process in processes:
        process.kill()
    worker.wait(30)
    psutil.wait_procs(processes, timeout=10)
    assert store.get(job.id).state is State.RUNNING
    assert memory.oom_kills() == before, "this test is in another group"
    if same_group:
        start_in(container, workers)
    else:
        workers.start(SPECTRAIN_LEASE_SECONDS=LEASE)
    wait_until(lambda: store.get(job.id).state is not State.RUNNING, what="the end")
    ended = store.get(job.id)
    assert (ended.state, ended.reason) == (State.FAILED, Reason.OUT_OF_MEMORY)
    assert "and its job for lack of memory" in ended.message
    workers.stop()


@pytest.mark.parametrize("used", [0.4, 0.9])
def test_another_containers_lack_of_memory_is_not_taken_for_this_ones(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, used: float
) -> None:
    before = Memory(group=1, group_kills=0, machine_kills=7, used=used)
    job, _ = noted_job(bench, memory=before)
    now = Memory(group=2, group_kills=0, machine_kills=8 if used < 0.5 else 7, used=0.1)
    monkeypatch.setattr(Memory, "now", lambda: now)
    assert watch(bench).run_once() == [job.id]
    assert bench.store.get(job.id).attempts[0].reason is Reason.LOST


def test_no_witness_outlives_a_worker_that_leaves(workers: Workers, wait_until: Wait) -> None:
    worker = psutil.Process(workers.start().pid)
    (witness,) = wait_until(lambda: [p for p in worker.children() if is_witness(p)], what="it")
    assert witness.memory_full_info().uss < 30 << 20, "it shares the memory of its worker"
    witness.terminate()
    assert witness.is_running(), "as where systemd ends all processes of a service"
    worker.terminate()
    assert not psutil.wait_procs([worker, witness], timeout=30)[1]


def is_witness(process: psutil.Process) -> bool:
    return "worker.losses.witness" in command_line(process)
