"""What is asked of a job at each moment of an attempt, with a real Redis and a real child.

Moments are held, not timed: storage, the start of the child, the child's save and the write of
the end each wait for the test where it says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import IllegalMoveError
from jobs.messages import Messenger
from jobs.model.record import Attempt, Job
from jobs.model.spec import JobSpec, Retry
from jobs.model.states import Reason, Request, State
from jobs.model.workers import WorkerState
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from monitoring.storage.open import open_storage
from worker.attempt.context import ShutdownState, WorkerContext
from worker.attempt.supervisor import supervise
from worker.launch.child import start_cold
from worker.launch.prepare import Slot

Wait = Callable[..., Any]

# Says that it is up; asked to stop, it says that it saves, and leaves when it may.
CHILD = """
import pathlib, signal, sys, time
here = pathlib.Path({here!r})
def save(*_):
    (here / "saving").touch()
    while not (here / "saved").exists():
        time.sleep(0.01)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
(here / "up").touch()
while not (here / "done").exists():
    time.sleep(0.01)
"""


class Gate:
    """A moment: whoever comes there waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self._open.wait(120), "the test never let it go on"

    def open(self) -> None:
        self._open.set()


class Held:
    """An object whose calls of one method wait at a gate, those that `which` picks."""

    def __init__(self, inner: Any, method: str, gate: Gate, which: Callable[..., bool]) -> None:
        self._inner, self._method, self._gate, self._which = inner, method, gate, which

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if name != self._method:
            return attribute

        def call(*args: Any, **options: Any) -> Any:
            if self._which(*args):
                self._gate()
            return attribute(*args, **options)

        return call


class Attempted:
    """One attempt of a job under way in a worker without its Celery, held at a moment."""

    def __init__(self, settings: Settings, store: JobStore, here: Path, moment: str = "") -> None:
        self.store, self.here, self.gate = store, here, Gate()
        self.settings = settings
        self.messenger = Messenger(settings, store)
        self.shutdown_state = ShutdownState()
        here.mkdir(exist_ok=True)
        storage: Any = open_storage(settings.storage_url)
        start, held_store = start_cold, store
        match moment:
            case "restore":
                storage = Held(storage, "seize", self.gate, lambda *_: True)
            case "start":

                def start(*arguments: Any) -> Any:
                    self.gate()
                    return start_cold(*arguments)

            case "last upload":
                storage = Held(
                    storage, "append", self.gate, lambda key, *_: key.endswith("/attempts/1.json")
                )
            case "end":
                held_store = Held(store, "finish", self.gate, lambda *_: True)  # type: ignore[assignment]
            case "renewal":
                held_store = Held(store, "renew", self.gate, lambda *_: True)  # type: ignore[assignment]
        self.service = WorkerContext(
            settings, held_store, self.messenger, storage, Slot(()), self.shutdown_state, start
        )
        spec = JobSpec(
            name="a",
            command=["python", "-c", CHILD.format(here=str(here))],
            retry=Retry(backoff_seconds=0),
        )
        store.submit(spec)
        claimed = store.claim("default", "w")
        assert claimed is not None
        self.claimed = claimed
        self._thread = threading.Thread(target=supervise, args=(self.service, claimed), daemon=True)
        self._thread.start()

    @property
    def job(self) -> Job:
        return self.store.get(self.claimed.id)

    def ask(self, *requests: Request) -> None:
        for request in requests:
            self.store.request(self.claimed.id, request)

    def touch(self, *names: str) -> None:
        for name in names:
            (self.here / name).touch()

    def has(self, name: str) -> bool:
        return (self.here / name).exists()

    def end(self) -> Job:
        """The job after the attempt, nothing being held any more."""
        self.gate.open()
        self.touch("saved")
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.job

    def close(self) -> None:
        self.gate.open()
        self.touch("saved", "done")
        self._thread.join(60)
        self.messenger.close()

    def events(self) -> list[str]:
        return [
            f"{event.type} {event.data.get('request', '')}".strip()
            for event in self.store.events(self.claimed.id)
        ]


Begin = Callable[..., Attempted]


@pytest.fixture
def begin(settings: Settings, store: JobStore, tmp_path: Path, wait_until: Wait) -> Iterator[Begin]:
    """Begins an attempt and returns when it has come to the moment."""
    begun: list[Attempted] = []

    def begin(moment: str, *before: Request, **changes: Any) -> Attempted:
        """`before` is asked of the running child, for moments that lie at the end."""
        here = tmp_path / "here"
        attempt = Attempted(settings.model_copy(update=changes), store, here, moment)
        begun.append(attempt)
        if moment in {"restore", "start"}:
            assert attempt.gate.reached.wait(60)
            return attempt
        wait_until(lambda: attempt.has("up"), what="the child")
        if moment in {"save", "last upload", "end"}:
            if before:
                attempt.ask(*before)
                wait_until(lambda: attempt.has("saving"), what="the save")
                if moment == "save":
                    return attempt
                attempt.touch("saved")
            else:
                attempt.touch("done")
            assert attempt.gate.reached.wait(60)
        return attempt

    yield begin
    for attempt in begun:
        attempt.close()


AFTER = {
    Request.EVICT: (State.QUEUED, Reason.EVICTED),
    Request.PREEMPT: (State.QUEUED, Reason.PREEMPTED),
    Request.PAUSE: (State.PAUSED, Reason.PAUSED),
    Request.CANCEL: (State.CANCELLED, Reason.CANCELLED),
}


# -- asked once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", Request)
@pytest.mark.parametrize("moment", ["restore", "start", "run"])
def test_a_request_has_its_effect_whenever_it_comes_before_the_end(
    begin: Begin, wait_until: Wait, moment: str, request_: Request
) -> None:
    attempt = begin(moment)
    attempt.ask(request_)
    if moment == "restore":  # the lease is renewed meanwhile, and with it the request is seen
        renewed = attempt.store.redis.zscore(attempt.store.keys.leases, attempt.claimed.id)
        for _ in range(2):
            wait_until(
                lambda r=renewed: (
                    attempt.store.redis.zscore(attempt.store.keys.leases, attempt.claimed.id) != r
                ),
                what="a renewal",
            )
            renewed = attempt.store.redis.zscore(attempt.store.keys.leases, attempt.claimed.id)
    job = attempt.end()
    assert (job.state, job.reason) == AFTER[request_]
    assert (job.request, job.worker) == (None, None)
    assert attempt.events()[2] == f"requested {request_}"
    if moment == "restore":
        assert not attempt.has("up"), "no child was started for nothing"


def test_a_request_between_the_claim_and_the_first_renewal_starts_no_child(
    store: JobStore, settings: Settings, tmp_path: Path
) -> None:
    original, asked = store.get, []

    def get(job_id: str) -> Job:
        if not asked and store.redis.hget(store.keys.job(job_id), "state") == "running":
            asked.append(job_id)
            store.request(job_id, Request.CANCEL)
        return original(job_id)

    store.get = get  # type: ignore[method-assign]
    attempt = Attempted(settings, store, tmp_path / "here")
    assert attempt.end().state is State.CANCELLED
    assert asked
    assert not attempt.has("up")
    attempt.close()


def test_a_cancel_twice_is_one(begin: Begin) -> None:
    attempt = begin("run")
    attempt.ask(Request.CANCEL, Request.CANCEL)
    assert attempt.end().state is State.CANCELLED
    attempt.ask(Request.CANCEL)
    assert attempt.events() == ["submitted", "started", "requested cancel", "cancelled"]


# -- asked again while it leaves -----------------------------------------------------------------


@pytest.mark.parametrize("second", [Request.PREEMPT, Request.PAUSE, Request.CANCEL])
@pytest.mark.parametrize("first", [Request.EVICT, Request.PREEMPT, Request.PAUSE, Request.CANCEL])
@pytest.mark.parametrize("moment", ["save", "last upload", "end"])
def test_the_weightiest_of_two_requests_counts_and_the_other_is_refused_or_replaced(
    begin: Begin, moment: str, first: Request, second: Request
) -> None:
    attempt = begin(moment, first)
    order = list(Request)
    if order.index(second) < order.index(first):
        with pytest.raises(IllegalMoveError, match=f"running, asked to {first}"):
            attempt.ask(second)
    else:
        attempt.ask(second)
    weightiest = max(first, second, key=order.index)
    job = attempt.end()
    assert job.state is AFTER[weightiest][0]
    assert job.request is None


@pytest.mark.parametrize("late", [Request.PREEMPT, Request.PAUSE, Request.CANCEL])
@pytest.mark.parametrize("moment", ["last upload", "end"])
def test_a_request_that_a_finished_run_outruns_is_said_to_have_come_too_late(
    begin: Begin, moment: str, late: Request
) -> None:
    attempt = begin(moment)
    attempt.ask(late)
    job = attempt.end()
    assert (job.state, job.reason) == (State.SUCCEEDED, Reason.COMPLETED)
    assert job.message == f"the request to {late} came too late"
    last = attempt.store.events(job.id)[-1]
    assert (last.type, last.data["message"]) == ("succeeded", job.message)


# -- a pause that is taken back ------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["save", "last upload", "end"])
def test_a_resume_while_the_pause_is_still_saving_queues_the_job_when_it_has_saved(
    begin: Begin, moment: str
) -> None:
    attempt = begin(moment, Request.PAUSE)
    assert attempt.store.resume(attempt.claimed.id).state is State.RUNNING
    job = attempt.end()
    assert (job.state, job.reason) == (State.QUEUED, Reason.PAUSED)
    assert job.message == "resumed before the pause took effect"
    assert attempt.events()[2:] == ["requested pause", "resumed", "requeued"]
    queue = attempt.store.keys.queue("default")
    assert attempt.store.redis.llen(queue) == 1, "a worker is woken for it"
    again = attempt.store.claim("default", "w2")
    assert again is not None
    assert (again.id, again.attempt) == (job.id, 2)


def test_a_pause_that_is_taken_back_before_the_worker_saw_it_interrupts_nothing(
    begin: Begin, wait_until: Wait
) -> None:
    attempt = begin("renewal")
    assert attempt.gate.reached.wait(60)
    attempt.ask(Request.PAUSE)
    attempt.store.resume(attempt.claimed.id)
    before = attempt.store.redis.zscore(attempt.store.keys.leases, attempt.claimed.id)
    attempt.gate.open()
    wait_until(
        lambda: attempt.store.redis.zscore(attempt.store.keys.leases, attempt.claimed.id) != before,
        what="a renewal",
    )
    attempt.touch("done")
    job = attempt.end()
    assert (job.state, job.attempt, job.message) == (State.SUCCEEDED, 1, "")
    assert not attempt.has("saving")


@pytest.mark.parametrize(
    ("then", "state"),
    [(Request.PAUSE, State.PAUSED), (Request.CANCEL, State.CANCELLED),
     (Request.PREEMPT, State.QUEUED)],
)  # fmt: skip
def test_what_is_asked_after_a_pause_was_taken_back_counts(
    begin: Begin, then: Request, state: State
) -> None:
    attempt = begin("save", Request.PAUSE)
    attempt.store.resume(attempt.claimed.id)
    attempt.ask(then)
    assert attempt.end().state is state


def test_a_preemption_that_a_pause_replaced_counts_again_when_the_pause_is_taken_back(
    store: JobStore,
) -> None:
    job = store.submit(JobSpec(name="a", command=["true"]))
    store.claim("default", "w")
    store.request(job.id, Request.PREEMPT)
    store.request(job.id, Request.PAUSE)
    assert store.resume(job.id).request is Request.PREEMPT


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["restore", "run", "save", "last upload", "end"])
def test_retry_resume_and_delete_are_refused_while_an_attempt_ends_and_say_why(
    begin: Begin, moment: str
) -> None:
    late = moment in {"save", "last upload", "end"}
    attempt = begin(moment, *([Request.CANCEL] if late else []))
    doing = "running, asked to cancel" if late else "running"
    for call in (attempt.store.retry, attempt.store.resume, attempt.store.mark_deleted):
        with pytest.raises(IllegalMoveError, match=f"it is {doing}\\.") as refused:
            call(attempt.claimed.id)
        assert refused.value.state == doing
    if not late:
        attempt.ask(Request.CANCEL)
    job = attempt.end()
    assert job.state is State.CANCELLED
    assert attempt.store.retry(job.id).state is State.QUEUED


@pytest.mark.parametrize("request_", [Request.EVICT, Request.PREEMPT, Request.PAUSE])
@pytest.mark.parametrize("state", ["queued", "delayed", "paused", "succeeded", "cancelled"])
def test_what_does_not_run_cannot_be_asked_to_leave(
    store: JobStore, state: str, request_: Request
) -> None:
    job = in_state(store, state)
    events = len(store.events(job.id))
    if (state, request_) == ("paused", Request.PAUSE):
        assert store.request(job.id, request_) == job, "it is what was asked for"
        return
    with pytest.raises(IllegalMoveError, match=f"Cannot {request_} job {job.id}: it (is|has) "):
        store.request(job.id, request_)
    assert store.get(job.id) == job
    assert len(store.events(job.id)) == events


@pytest.mark.parametrize("state", ["queued", "delayed", "paused"])
def test_what_waits_is_cancelled_at_once_and_never_claimed(store: JobStore, state: str) -> None:
    job = in_state(store, state)
    assert store.request(job.id, Request.CANCEL).state is State.CANCELLED
    assert store.claim("default", "w2") is None
    assert store.queues.due_messages(store.now() + 7200) == []
    with pytest.raises(IllegalMoveError, match="it is cancelled"):
        store.resume(job.id)


def in_state(store: JobStore, state: str) -> Job:
    job = store.submit(
        JobSpec(name="a", command=["true"], retry=Retry(backoff_seconds=3600, max_failures=5))
    )
    if state == "queued":
        return job
    claimed = store.claim("default", "w")
    assert claimed is not None
    reasons = {
        "delayed": Reason.ERROR,
        "paused": Reason.PAUSED,
        "succeeded": Reason.COMPLETED,
        "cancelled": Reason.CANCELLED,
    }
    if state == "paused":
        store.request(job.id, Request.PAUSE)
    end(store, claimed, reasons[state])
    return store.get(job.id)


def end(store: JobStore, job: Job, reason: Reason) -> Job | None:
    at = job.attempts[-1].started_at
    return store.finish(
        job.id, Attempt(number=job.attempt, worker="w", started_at=at, ended_at=at, reason=reason)
    )


# -- with evictions and drained workers ----------------------------------------------------------


def test_a_job_that_is_to_pause_or_be_cancelled_is_not_evicted(store: JobStore) -> None:
    for request in (Request.PAUSE, Request.CANCEL):
        low = store.submit(JobSpec(name="low", command=["true"], priority=1))
        running = store.claim("default", f"w-{request}")
        assert running is not None
        high = store.submit(JobSpec(name="high", command=["true"], priority=8))
        store.request(low.id, request)
        assert not store.evict(low.id, 1, high.id)
        assert store.get(low.id).request is request
        end(store, running, Reason.CANCELLED if request is Request.CANCEL else Reason.PAUSED)
        assert store.queues.reserved_for(f"w-{request}") is None
        store.request(high.id, Request.CANCEL)


def test_an_evicted_job_that_is_paused_meanwhile_stays_paused(store: JobStore) -> None:
    low = store.submit(JobSpec(name="low", command=["true"], priority=1))
    running = store.claim("default", "w")
    assert running is not None
    high = store.submit(JobSpec(name="high", command=["true"], priority=8))
    assert store.evict(low.id, 1, high.id)
    store.request(low.id, Request.PAUSE)
    after = end(store, running, Reason.EVICTED)
    assert after is not None
    assert after.state is State.PAUSED


@pytest.mark.parametrize("request_", [Request.PREEMPT, Request.CANCEL])
def test_a_worker_that_is_drained_while_its_job_leaves_takes_no_other(
    store: JobStore, request_: Request
) -> None:
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60)
    registry.renew("w", pool="default", host="h")
    store.submit(JobSpec(name="a", command=["true"]))
    running = store.claim("default", "w")
    assert running is not None
    store.request(running.id, request_)
    assert registry.drain("w").job == running.id
    after = end(store, running, AFTER[request_][1])
    assert after is not None
    assert after.state is AFTER[request_][0]
    worker = registry.get("w")
    assert worker is not None
    assert (worker.state, worker.job) == (WorkerState.DRAINING, None)


# -- while storage is away -----------------------------------------------------------------------


@pytest.mark.parametrize("request_", [Request.PREEMPT, Request.PAUSE, Request.CANCEL])
def test_a_job_whose_storage_is_away_at_its_start_need_not_wait_for_it_to_leave(
    settings: Settings, store: JobStore, tmp_path: Path, request_: Request
) -> None:
    (tmp_path / "experiments").write_text("not a directory")
    attempt = Attempted(settings, store, tmp_path / "here")
    attempt.ask(request_)
    job = attempt.end()
    assert (job.state, job.reason) == AFTER[request_]
    assert not attempt.has("up")
    attempt.close()


def test_a_worker_that_is_told_to_stop_while_storage_is_away_gives_its_job_back_at_once(
    settings: Settings, store: JobStore, tmp_path: Path
) -> None:
    (tmp_path / "experiments").write_text("not a directory")
    attempt = Attempted(
        settings.model_copy(update={"grace_seconds": 600}), store, tmp_path / "here"
    )
    attempt.shutdown_state.stop()
    job = attempt.end()
    assert (job.state, job.reason) == (State.QUEUED, Reason.PREEMPTED)
    assert job.no_progress == 0
    attempt.close()


def test_a_cancel_does_not_wait_for_ever_for_a_store_that_is_away_at_the_end(
    begin: Begin, tmp_path: Path
) -> None:
    attempt = begin("run", grace_seconds=2)
    (tmp_path / "experiments").rename(tmp_path / "away")
    (tmp_path / "experiments").write_text("not a directory")
    attempt.ask(Request.CANCEL)
    job = attempt.end()
    assert job.state is State.CANCELLED
    assert job.message == "cancelled on request"
