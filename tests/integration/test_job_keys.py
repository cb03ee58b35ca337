"""What the scripts write lies under the keys that `jobs.store.keys` spells, and under no other."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from jobs.accounts.store import TokenStore
from jobs.accounts.token import Role
from jobs.checks import Checks
from jobs.messages import Messenger
from jobs.model.record import Job
from jobs.model.spec import JobSpec, Retry
from jobs.model.states import Reason, Request, State
from jobs.notify import Webhook
from jobs.reaper.reaper import Reaper
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.keys import Keys, PoolIndex
from jobs.store.registry import WorkerRegistry
from jobs.webhooks.outbox import Outbox
from monitoring.storage.open import open_storage
from monitoring.storage.probe import StorageProbe

SPEC = JobSpec(name="a", command=["true"], retry=Retry(backoff_seconds=600))


def spelled(keys: Keys, jobs: list[Job]) -> dict[str, str]:
    """Every key of these jobs and of worker `w`, by the name that documents it."""
    found = {name: getattr(keys, name) for name in vars(Keys) if _is_plain(name)}
    for job in jobs:
        found |= {f"job {job.id}": keys.job(job.id), f"events {job.id}": keys.events(job.id)}
    found |= {f"state {state}": keys.jobs_in(state) for state in State}
    found |= {f"pool {index}": keys.pool("default", index) for index in get_args(PoolIndex)}
    found |= {f"line {owner}": keys.of_owner("default", "queued", owner) for owner in ("", "ada")}
    found |= {"busy": keys.of_owner("default", "running", "")}
    return found | {
        "queue": keys.queue("default"),
        "worker": keys.worker("w"),
        "reserved": keys.reserved("w"),
        "idempotency": keys.idempotency("", "once"),
    }


def _is_plain(name: str) -> bool:
    return isinstance(vars(Keys)[name], property)


@pytest.fixture
def service(settings: Settings, store: JobStore) -> Iterator[Callable[[], list[Job]]]:
    """Takes jobs through every script that writes; gives the jobs."""
    messenger = Messenger(settings, store)
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60)
    Path(settings.storage_url.removeprefix("file://")).mkdir()
    probe = StorageProbe(open_storage(settings.storage_url), settings.storage_url)

    outbox = Outbox(store.redis, settings.redis_prefix)

    def end(job: Job, reason: Reason) -> None:
        current = store.get(job.id).current
        assert current is not None
        ended = current.model_copy(update={"reason": reason, "ended_at": store.now()})
        store.finish(job.id, ended)

    def run() -> list[Job]:
        registry.renew("w", pool="default", host=socket.gethostname())
        jobs = [store.submit(SPEC, idempotency_key="once")]
        failing = store.claim("default", "w")
        assert failing is not None
        end(failing, Reason.ERROR)  # delayed
        jobs += [store.submit(SPEC.model_copy(update={"priority": p})) for p in (9, 8, 7, 6)]
        for reason in (Reason.COMPLETED, Reason.DIVERGED, Reason.PAUSED):
            done = store.claim("default", "w")
            assert done is not None
            if reason is Reason.PAUSED:
                store.request(done.id, Request.PAUSE)
            end(done, reason)
        low = store.claim("default", "w")
        assert low is not None
        high = store.submit(SPEC.model_copy(update={"priority": 9}))
        assert store.evict(low.id, low.attempt, high.id)
        end(low, Reason.EVICTED)  # reserves its place
        cancelled, waits = store.submit(SPEC), store.submit(SPEC, owner="ada")
        store.request(cancelled.id, Request.CANCEL)
        messenger.announce("default", waits.id)
        told = store.submit(
            SPEC.model_copy(update={"notify": [Webhook(url="https://x/y", on=["submitted"])]})
        )
        ((notice, _),) = outbox.take(1)
        outbox.postpone(notice, 1, 60)
        registry.renew("v", pool="default", host="h")
        registry.leave("v")
        TokenStore(store.redis, store.prefix).limit({"ada": (1, -1)})
        other = store.claim("default", "u")
        assert other is not None
        Reaper(store, messenger, lambda _: None).run_once()
        Checks(store.redis, settings, probe).run()
        tokens = TokenStore(store.redis, store.prefix)
        token, _ = tokens.create("laptop", "ada", Role.USER)
        tokens.note_used({token.id: 1.0})
        return [*jobs, high, cancelled, waits, told]

    yield run
    messenger.close()


def test_scripts_and_python_spell_the_same_keys(
    service: Callable[[], list[Job]], store: JobStore
) -> None:
    known = spelled(store.keys, service())
    found = {key for key in store.redis.keys("*") if not key.startswith("_kombu")}
    assert found - set(known.values()) == set(), "a script writes where Python does not look"
    assert {name for name, key in known.items() if key not in found} == set(), "nobody writes there"


def test_a_request_arrives_on_the_channel_that_python_spells(
    store: JobStore, wait_until: Callable[..., Any]
) -> None:
    job = store.submit(SPEC)
    assert store.claim("default", "w") is not None
    with store.redis.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(store.keys.requests("w"))
        channel.get_message(timeout=5)
        store.request(job.id, Request.PAUSE)
        heard = wait_until(lambda: channel.get_message(timeout=1), what="the request", seconds=10)
    assert heard["data"] == job.id
