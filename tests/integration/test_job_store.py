"""The store against a real Redis: what each call promises."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from kombu.transport.redis import Channel
from redis import Redis

from jobs import messages
from jobs.errors import (
    IdempotencyConflictError,
    IllegalMoveError,
    StaleAttemptError,
)
from jobs.messages import Messenger, celery_app, queue_name
from jobs.model.record import Attempt, Job, Progress
from jobs.model.rules import lost_attempt
from jobs.model.spec import JobSpec, Retry
from jobs.model.states import Reason, Request, State
from jobs.settings import Settings
from jobs.store import submission
from jobs.store.jobs import JobStore
from jobs.store.queues import ExpiredLease

SPEC = JobSpec(name="a", command=["true"], retry=Retry(backoff_seconds=0))


def ended(job: Job, reason: Reason, at: float, **changes: object) -> Attempt:
    current = job.current
    assert current is not None
    return current.model_copy(
        update={"reason": reason, "ended_at": at, "message": "said so", **changes}
    )


@pytest.fixture
def running(store: JobStore) -> Job:
    store.submit(SPEC)
    job = store.claim("default", "w1")
    assert job is not None
    return job


def test_a_cancel_between_the_decision_and_the_write_is_not_lost(
    store: JobStore, running: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = store.get
    asked: list[Request] = []

    def get(job_id: str) -> Job:
        job = original(job_id)
        if not asked:
            asked.append(Request.CANCEL)
            store.request(job_id, Request.CANCEL)
        return job

    monkeypatch.setattr(store, "get", get)
    after = store.finish(running.id, ended(running, Reason.PREEMPTED, at=2.0))
    assert after is not None
    assert after.state is State.CANCELLED


def test_an_answer_that_was_lost_on_the_way_is_given_again(store: JobStore, running: Job) -> None:
    again = store.claim("default", "w1")
    assert again is not None
    assert (again.id, again.attempt) == (running.id, 1)
    receipt = ended(running, Reason.PREEMPTED, at=2.0)
    first = store.finish(running.id, receipt)
    second = store.finish(running.id, receipt)
    assert first is not None
    assert second is not None
    assert second.attempt == first.attempt == 1
    assert [event.type for event in store.events(running.id)] == [
        "submitted", "started", "requeued",
    ]  # fmt: skip


def test_an_end_that_was_written_may_be_told_again_although_a_request_came_too_late_for_it(
    store: JobStore, running: Job
) -> None:
    receipt = ended(running, Reason.COMPLETED, at=2.0, message="")
    store.request(running.id, Request.PREEMPT)
    first = store.finish(running.id, receipt)
    assert first is not None
    assert "came too late" in first.message
    # It is decided anew, of a job that has ended by now.
    assert store.finish(running.id, receipt) == first
    with pytest.raises(StaleAttemptError):
        store.finish(running.id, ended(running, Reason.ERROR, at=2.0))


def test_the_end_of_an_attempt_brings_its_last_progress_along(
    store: JobStore, running: Job
) -> None:
    store.renew(running.id, 1, Progress(step=3, loss=2.0))
    last = Progress(step=9, loss=1.0)
    after = store.finish(running.id, ended(running, Reason.COMPLETED, at=2.0), progress=last)
    assert after is not None
    assert after.progress == last


def test_a_job_that_runs_again_does_not_say_why_its_last_attempt_ended(
    store: JobStore, running: Job
) -> None:
    after = store.finish(running.id, ended(running, Reason.PREEMPTED, at=2.0))
    assert after is not None
    assert after.reason is Reason.PREEMPTED
    again = store.claim("default", "w2")
    assert again is not None
    assert (again.reason, again.message) == (None, "")
    assert again.attempts[0].reason is Reason.PREEMPTED


def test_workers_that_claim_at_once_never_get_the_same_job(store: JobStore) -> None:
    submitted = [store.submit(SPEC).id for _ in range(50)]
    with ThreadPoolExecutor(8) as threads:
        claimed = list(threads.map(lambda n: store.claim("default", f"w{n}"), range(60)))
    ids = [job.id for job in claimed if job is not None]
    assert sorted(ids) == sorted(submitted)


def test_jobs_run_by_priority_and_first_in_first_out_and_a_preempted_one_goes_first(
    store: JobStore,
) -> None:
    low, first, second, high = (
        store.submit(SPEC.model_copy(update={"priority": p})).id for p in (2, 5, 5, 8)
    )
    order = []
    for number in range(2):
        job = store.claim("default", f"w{number}")
        assert job is not None
        order.append(job.id)
    assert order == [high, first]
    preempted = store.get(first)
    store.finish(first, ended(preempted, Reason.PREEMPTED, at=2.0))
    late = store.submit(SPEC).id
    assert store.queues.waiting()["default"] == [first, second, late, low]


def test_a_failed_job_waits_for_its_back_off(store: JobStore) -> None:
    spec = SPEC.model_copy(update={"retry": Retry(backoff_seconds=3600)})
    job_id = store.submit(spec).id
    job = store.claim("default", "w1")
    assert job is not None
    store.finish(job_id, ended(job, Reason.ERROR, at=2.0))
    assert store.claim("default", "w2") is None
    assert store.queues.due_messages(store.now()) == []
    store.redis.zadd(store.keys.pool("default", "delayed"), {job_id: 1})
    again = store.claim("default", "w2")
    assert again is not None
    assert again.attempt == 2


def test_what_a_person_asks_is_answered_alike_when_the_answer_was_lost_on_the_way(
    store: JobStore, running: Job
) -> None:
    def twice(*call: str) -> None:
        assert [store._run(*call)[0] for _ in range(2)] == ["ok", "ok"]

    def ask(request: Request, mark: str) -> tuple[str, ...]:
        return ("jobs/request", running.id, request, json.dumps(list(Request)), "", "", mark)

    twice(*ask(Request.PREEMPT, "preempt"))
    paused = ask(Request.PAUSE, "pause")
    twice(*paused)
    store.finish(running.id, ended(running, Reason.PAUSED, at=2.0))
    twice(*paused)
    twice("jobs/resume", running.id, "one call")
    store.request(running.id, Request.CANCEL)
    twice("jobs/retry", running.id, "another")
    assert store.get(running.id).state is State.QUEUED
    with pytest.raises(IllegalMoveError):
        store.retry(running.id)
    store.request(running.id, Request.CANCEL)
    twice("jobs/delete", running.id, "mark")
    twice("jobs/delete", running.id, "remove")


def test_the_time_until_a_loss_was_noticed_is_no_run_time(store: JobStore) -> None:
    job_id = store.submit(SPEC).id
    job = store.claim("default", "w1")
    assert job is not None
    assert job.current is not None
    # A power cut after an hour, and nobody there for a weekend.
    after = job.current.started_at + 3600 + 200_000
    done = store.finish(job_id, lost_attempt(job, after, 200_000))
    assert done is not None
    assert done.run_seconds == pytest.approx(3600)


def test_a_message_lost_after_a_back_off_is_found_by_the_sweep(store: JobStore) -> None:
    job_id = store.submit(SPEC.model_copy(update={"retry": Retry(backoff_seconds=3600)})).id
    job = store.claim("default", "w1")
    assert job is not None
    store.finish(job_id, ended(job, Reason.ERROR, at=2.0))
    store.redis.zadd(store.keys.pool("default", "delayed"), {job_id: 1})
    store.queues.message_sent(job_id, store.now())
    assert store.queues.waiting() == {"default": [job_id]}


def test_noting_an_old_message_as_sent_leaves_that_of_the_next_turn(store: JobStore) -> None:
    job_id = store.submit(SPEC.model_copy(update={"retry": Retry(backoff_seconds=3600)})).id
    read_at = store.now()
    job = store.claim("default", "w1")
    assert job is not None
    store.finish(job_id, ended(job, Reason.ERROR, at=2.0))
    store.queues.message_sent(job_id, read_at)
    assert store.queues.due_messages(store.now() + 7200) == [("default", job_id)]


def test_a_worker_that_was_away_during_its_claim_is_not_given_anothers_attempt(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.submit(SPEC)
    get = store.get

    def suspended(job_id: str) -> Job:
        monkeypatch.setattr(store, "get", get)
        lease = ExpiredLease(job_id, store.redis.zscore(store.keys.leases, job_id))
        store.finish(job_id, lost_attempt(get(job_id), 1.0, 15), lease=lease)
        assert store.claim("default", "w2") is not None
        return get(job_id)

    monkeypatch.setattr(store, "get", suspended)
    assert store.claim("default", "w1") is None


def test_a_job_that_this_version_cannot_read_fails_and_holds_up_no_other(store: JobStore) -> None:
    poison, healthy = store.submit(SPEC).id, store.submit(SPEC).id
    spec = store.redis.hget(store.keys.job(poison), "spec")
    store.redis.hset(store.keys.job(poison), "spec", '{"name": 7}')
    assert store.claim("default", "w1") is None
    job = store.claim("default", "w1")
    assert job is not None
    assert job.id == healthy
    store.redis.hset(store.keys.job(poison), "spec", spec)
    assert store.get(poison).state is State.FAILED
    assert "cannot read" in store.get(poison).message


def test_an_idempotency_key_returns_the_first_job(store: JobStore) -> None:
    first = store.submit(SPEC, idempotency_key="k")
    assert store.submit(SPEC, idempotency_key="k").id == first.id
    with pytest.raises(IdempotencyConflictError, match=first.id):
        store.submit(SPEC.model_copy(update={"priority": 1}), idempotency_key="k")
    assert len(list(store.newest())) == 1


def test_an_idempotency_key_of_another_owner_is_another_key(store: JobStore) -> None:
    owners = [None, "ada", "bob"]
    first = [store.submit(SPEC, idempotency_key="ada:k", owner=owner).id for owner in owners]
    assert len(set(first)) == len(owners)
    again = [store.submit(SPEC, idempotency_key="ada:k", owner=owner).id for owner in owners]
    assert again == first
    assert store.submit(SPEC, idempotency_key="k", owner="ada").id not in first


def test_pages_are_stable_while_jobs_are_submitted(store: JobStore) -> None:
    ids = [store.submit(SPEC).id for _ in range(450)]
    seen: list[str] = []
    pages: Iterator[Job] = store.newest()
    for job in pages:
        seen.append(job.id)
        if len(seen) % 100 == 1:
            store.submit(SPEC)
    assert seen == ids[::-1]


def test_a_record_that_cannot_be_read_hides_no_other(store: JobStore) -> None:
    ids = [store.submit(SPEC).id for _ in range(3)]
    store.redis.hset(store.keys.job(ids[1]), "spec", '{"name": 7}')
    assert [job.id for job in store.newest()] == [ids[2], ids[0]]


def test_the_scripts_answer_clients_of_both_protocols(redis_url: str) -> None:
    for protocol in (2, 3):
        with Redis.from_url(redis_url, decode_responses=True, protocol=protocol) as redis:
            store = JobStore(redis, prefix=f"p{protocol}:", lease_seconds=0.001)
            job = store.submit(SPEC)
            assert store.claim("default", "w") is not None
            assert store.queues.due_messages(store.now()) == []
            leases = store.queues.expired_leases(store.now() + 1)
            assert [lease.job_id for lease in leases] == [job.id]


def test_no_broker_of_the_environment_gets_our_messages(
    settings: Settings, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "redis://127.0.0.1:1/0")
    messenger = Messenger(settings, store)
    try:
        store.submit(SPEC)
        messenger.flush(store.now())
        assert store.redis.llen(queue_name(settings, "default")) == 1
        with celery_app(settings).connection_for_read() as connection:
            assert connection.as_uri(include_password=True) == settings.redis_url
    finally:
        messenger.close()


def test_a_connection_that_an_outage_left_half_closed_holds_up_no_message(
    settings: Settings, store: JobStore, messenger: Messenger, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = ["half closed"]

    def put(channel: Channel, *args: object, **options: object) -> None:
        if left:
            # What kombu raises now and then while Redis is killed again and again.
            raise AttributeError(left.pop())
        whole(channel, *args, **options)

    whole = Channel._put
    monkeypatch.setattr(Channel, "_put", put)
    job = store.submit(SPEC)
    messenger.announce("default", job.id)
    assert store.redis.llen(queue_name(settings, "default")) == 1
    assert not left


def test_a_long_line_of_messages_is_not_made_longer(
    store: JobStore, settings: Settings, messenger: Messenger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "_SWEEP_LIMIT", 3)
    queue = queue_name(settings, "default")
    for job in [store.submit(SPEC) for _ in range(5)]:
        messenger.announce("default", job.id)
    assert store.redis.llen(queue) == 3
    assert store.redis.zcard(store.keys.outbox) == 0, "the reaper would send them again"
    # Whoever is woken takes any of the jobs, and those that wait without a message are swept.
    store.redis.delete(queue)
    assert messenger.sweep() == 3


def test_a_new_job_never_gets_the_id_of_another_one(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(["a-22222222", "a-22222222", "a-33333333", "a-44444444"])
    monkeypatch.setattr(submission, "new_job_id", lambda name: next(ids))
    first = store.submit(SPEC, owner="ada")
    store.redis.hset(store.keys.job(first.id), "submitted_at", f"{store.now() - 600:.6f}")
    second = store.submit(SPEC, owner="bob", idempotency_key="k")
    assert (first.id, second.id) == ("a-22222222", "a-33333333")
    assert store.owner(first.id) == "ada"
    assert store.submit(SPEC, owner="bob", idempotency_key="k").id == second.id
    with pytest.raises(ValueError, match="another job"):
        store.submit(SPEC, job_id=first.id)
