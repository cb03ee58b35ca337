"""A worker that dies is noticed by whoever stands next to it, and no other one is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.messages import Messenger
from jobs.model.record import Job
from jobs.model.rules import lost_attempt
from jobs.model.states import Reason, Request, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from tests.integration.one_worker import BEATS, Bench, python
from tests.integration.worker_processes import Workers
from tests.integration.warm_python import WarmPython
from worker.losses import note as notes_module
from worker.losses.note import Note, NoteFile, abandoned, notes
from worker.losses.report import end_attempt
from worker.losses.watch import LossWatch

Wait = Callable[..., Any]
# So long that no lease ends within a test.
LEASE = "600"
STEPPING = (
    BEATS + "for step in range(10 ** 6):\n    step_counter.beat(step)\n    time.sleep(0.05)\n"
)


@pytest.fixture
def workers(settings: Settings, warm_python: WarmPython) -> Iterator[Workers]:
    workers = Workers(settings, warm_python)
    yield workers
    workers.stop()


@pytest.fixture
def messenger(settings: Settings, store: JobStore) -> Iterator[Messenger]:
    messenger = Messenger(settings, store)
    yield messenger
    messenger.close()


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
    wait_until(lambda: store.get(job.id).attempt == 2, what="the next attempt", seconds=20)
    assert time.monotonic() - killed < 4, "far less than its lease"
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


def test_a_worker_that_is_restarted_ends_the_attempt_that_lost_all_its_processes(
    workers: Workers, store: JobStore, messenger: Messenger, wait_until: Wait, settings: Settings
) -> None:
    """As in a container, where the kernel kills all processes together."""
    worker = workers.start(SPECTRAIN_LEASE_SECONDS=LEASE)
    job = store.submit(python(STEPPING))
    messenger.flush(store.now())
    wait_until(running(store, job), what="a step")
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
    workers: Workers, store: JobStore, messenger: Messenger, wait_until: Wait
) -> None:
    worker = workers.start(SPECTRAIN_LEASE_SECONDS=LEASE)
    job = store.submit(python(STEPPING))
    messenger.flush(store.now())
    wait_until(running(store, job), what="a step")
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


def noted_job(bench: Bench, **fields: str) -> tuple[Job, Path]:
    """A running job, and its note, which no process holds."""
    job = bench.claim(python("pass"))
    steps = bench.settings.scratch_dir / "steps"
    note = Note.here(job.id, job.attempt, job.worker or "", steps)
    file = NoteFile.create(bench.settings.scratch_dir, note)
    if fields:
        file.update(**fields)
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


def test_no_witness_outlives_a_worker_that_leaves(workers: Workers, wait_until: Wait) -> None:
    worker = psutil.Process(workers.start().pid)
    (witness,) = wait_until(lambda: [p for p in worker.children() if is_witness(p)], what="it")
    assert witness.memory_full_info().uss < 30 << 20, "it shares the memory of its worker"
    witness.terminate()
    assert witness.is_running(), "as where systemd ends all processes of a service"
    worker.terminate()
    assert not psutil.wait_procs([worker, witness], timeout=30)[1]


def is_witness(process: psutil.Process) -> bool:
    return "worker.losses.witness" in process.cmdline()
