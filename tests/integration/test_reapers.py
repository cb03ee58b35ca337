"""Reapers in the API, in workers and alone: one at work, and another when that one dies."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from redis import Redis
from redis.exceptions import RedisError

from api.local.redis_server import free_port
from api.ops.reaper_healthcheck import failure
from jobs.errors import STORE_AWAY
from jobs.messages import Messenger
from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State
from jobs.reaper.reaper import Reaper
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore, open_store
from jobs.store.reaper_lock import ReaperLock
from tests.integration.one_worker import OwnRedis, worker_settings

Wait = Callable[..., Any]
M = TypeVar("M", bound=Messenger)


@pytest.fixture
def service(
    settings: Settings, store: JobStore, tmp_path: Path, wait_until: Wait
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """API, worker and a reaper alone, each with the lock for the first time in turn."""
    environment = {
        **{k: v for k, v in os.environ.items() if k != "REDIS_URL"},
        **worker_settings(settings),
        "SPECTRAIN_LEASE_SECONDS": "2",
        "SPECTRAIN_API_PORT": str(free_port()),
        "SPECTRAIN_POOL": "elsewhere",
        "SPECTRAIN_WARM_START": "0",
    }
    started = []
    with (tmp_path / "log").open("wb") as log:
        for module in ("api.server.serve", "worker", "api.ops.reaper"):
            command = [sys.executable, "-m", module]
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            if module == "api.server.serve":
                wait_until(lambda: holder(store), what="the API's reaper")
    try:
        wait_until(lambda: store.redis.zcard(store.keys.workers), what="the worker")
        yield started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)


def holder(store: JobStore) -> int | None:
    """The process id of the reaper that is at work."""
    name = store.redis.get(store.keys.reaper)
    return int(name.rsplit("-", 2)[1]) if name else None


def another(store: JobStore, than: list[int]) -> int | None:
    pid = holder(store)
    return None if pid in than else pid


def test_whichever_process_is_killed_another_takes_the_reapers_work_over(
    service: list[subprocess.Popen[bytes]], store: JobStore, wait_until: Wait
) -> None:
    lost = store.submit(JobSpec(name="a", command=["true"]))
    short = JobStore(store.redis, lease_seconds=1)
    assert short.claim("default", "silent") is not None
    first = wait_until(lambda: holder(store), what="a reaper")
    assert first == service[0].pid
    held = [first]
    for _ in range(2):
        os.kill(held[-1], signal.SIGKILL)
        held.append(wait_until(lambda: another(store, held), what="another reaper"))
    wait_until(lambda: store.get(lost.id).state is State.QUEUED, what="the verdict", seconds=30)
    assert store.get(lost.id).attempts[0].reason is Reason.LOST


def test_the_lock_expires_within_a_lease_and_is_given_up_at_a_clean_end(
    settings: Settings, store: JobStore, wait_until: Wait
) -> None:
    messenger = Messenger(settings, store)
    try:
        first, second = (Reaper(store, messenger, lambda _: None) for _ in range(2))
        first.run_once()
        second.run_once()
        assert (first.at_work, second.at_work) == (True, False)
        life, period = store.redis.pttl(store.keys.reaper) / 1000, store.lease_seconds
        assert life + period / 5 < period
        second.release()
        assert store.redis.exists(store.keys.reaper), "only who holds it gives it up"
        first.release()
        second.run_once()
        assert second.at_work
    finally:
        messenger.close()


class Overtaken(Redis):
    """A connection on which the lock expires, and another takes it, between two commands on it."""

    key = ""
    overtake: Callable[[], object]
    before, commands = 2, 0

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if self.key and self.key in args:
            self.commands += 1
            if self.commands == self.before:
                self.overtake()
        return super().execute_command(*args, **options)


@pytest.mark.parametrize(("step", "before"), [("hold", 2), ("hold", 3), ("release", 2)])
def test_two_reapers_that_race_for_the_lock_never_work_at_once(
    settings: Settings, store: JobStore, step: str, before: int
) -> None:
    slow = Overtaken.from_url(settings.redis_address, decode_responses=True)
    messenger = Messenger(settings, store)
    first = Reaper(open_store(slow, settings), messenger, lambda _: None)
    second = Reaper(store, messenger, lambda _: None)

    def overtake() -> None:
        store.redis.delete(store.keys.reaper)
        second.run_once()

    try:
        first.run_once()
        slow.key, slow.overtake, slow.before = store.keys.reaper, overtake, before
        if step == "hold":
            first.run_once()
        else:
            first.release()
            first.at_work = False
        if second.at_work:
            assert store.redis.exists(store.keys.reaper), "it still has the lock it took"
        second.run_once()
        assert [first.at_work, second.at_work].count(True) == 1
        holder = store.redis.get(store.keys.reaper)
        assert holder == (first if first.at_work else second)._name
    finally:
        messenger.close()
        slow.close()


def test_an_answer_that_was_lost_on_the_way_costs_a_reaper_nothing(store: JobStore) -> None:
    lock = ReaperLock(store.redis, store.prefix, "a", 60)
    other = ReaperLock(store.redis, store.prefix, "b", 60)
    assert [lock.hold(), lock.hold(), other.hold()] == [True, True, False], "sent twice, held once"
    lock.release()
    assert other.hold()
    lock.release()
    assert not lock.hold()


@pytest.fixture
def redis_of_its_own(own_redis: OwnRedis) -> tuple[Settings, int]:
    """The settings for a Redis that may be stopped, and its process id."""
    config, start = own_redis
    return Settings(redis_url=config.url, lease_seconds=1), start().pid


class StoppingRedis(Messenger):
    """Stops Redis in the middle of the next pass, for longer than the lease."""

    stop: int | None = None

    def sweep(self) -> int:
        found = super().sweep()
        if self.stop is not None:
            os.kill(self.stop, signal.SIGSTOP)
            threading.Timer(2.5, os.kill, (self.stop, signal.SIGCONT)).start()
            self.stop = None
        return found


@contextlib.contextmanager
def watching(
    settings: Settings, messenger_type: type[M], wait_until: Wait
) -> Iterator[tuple[JobStore, Job, Reaper, M]]:
    """A job whose lease runs, and a reaper that has watched for long enough to judge it."""
    redis = connect(settings)
    store = open_store(redis, settings)
    messenger = messenger_type(settings, store)
    try:
        job = store.submit(JobSpec(name="a", command=["true"]))
        assert store.claim("default", "worker") is not None
        reaper = Reaper(store, messenger, lambda _: None)
        began = store.now()

        def watches() -> bool:
            store.renew(job.id, 1)
            assert reaper.run_once() == []
            return store.now() - max(began, store.now() - store.uptime()) > 1.5

        wait_until(watches, what="a reaper that may judge")
        yield store, job, reaper, messenger
    finally:
        messenger.close()
        redis.close()


def test_a_redis_that_stood_still_in_the_middle_of_a_pass_makes_nobody_lost(
    redis_of_its_own: tuple[Settings, int], wait_until: Wait
) -> None:
    settings, pid = redis_of_its_own
    with watching(settings, StoppingRedis, wait_until) as (store, job, reaper, messenger):
        messenger.stop = pid
        store.renew(job.id, 1)
        assert reaper.run_once() == []
        assert store.queues.expired_leases(store.now()), "Redis has not stood still for a lease"
        assert reaper.run_once() == []
        assert store.renew(job.id, 1) is None
        # And who is silent from now on is lost as ever.
        wait_until(lambda: reaper.run_once() == [job.id], what="the verdict")


def test_a_redis_that_took_no_writes_for_longer_than_a_lease_makes_nobody_lost(
    redis_of_its_own: tuple[Settings, int], wait_until: Wait
) -> None:
    settings, _ = redis_of_its_own
    with watching(settings, Messenger, wait_until) as (store, job, reaper, _):
        store.redis.config_set("maxmemory", 1)

        def lapsed() -> bool:
            for call in (lambda: store.renew(job.id, 1), reaper.run_once):
                with pytest.raises(RedisError, match="memory"):
                    call()
            return bool(store.queues.expired_leases(store.now()))

        wait_until(lapsed, what="the end of the lease")
        store.redis.config_set("maxmemory", 0)
        assert reaper.run_once() == []
        assert store.renew(job.id, 1) is None


class SetBackStore(JobStore):
    """A store whose clock, and that of its Redis, is so many seconds ahead."""

    ahead = 0.0
    since_start = 0.0

    def now(self) -> float:
        return super().now() + self.ahead

    def uptime(self) -> float:
        return super().uptime() + self.since_start


def test_a_redis_that_dies_before_a_message_is_sent_is_an_outage_like_any_other(
    settings: Settings, store: JobStore
) -> None:
    gone = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{free_port()}/0"})
    messenger = Messenger(gone, store)
    store.submit(JobSpec(name="a", command=["true"]))
    try:
        with pytest.raises(STORE_AWAY):
            messenger.sweep()
    finally:
        messenger.close()


def test_a_clock_of_redis_that_is_set_back_keeps_no_reaper_from_its_work(
    settings: Settings, store: JobStore, wait_until: Wait
) -> None:
    store = SetBackStore(store.redis, lease_seconds=0.2)
    messenger = Messenger(settings, store)
    try:
        reaper = Reaper(store, messenger, lambda _: None)
        store.ahead = 7200
        assert reaper.run_once() == []
        # As after the first word of NTP to a machine that started with a wrong clock.
        store.ahead, store.since_start = 0, -7200
        job = store.submit(JobSpec(name="a", command=["true"]))
        assert store.claim("default", "silent") is not None
        wait_until(lambda: reaper.run_once() == [job.id], what="the verdict", seconds=20)
    finally:
        messenger.close()


def test_the_health_check_of_a_reaper_tells_when_nobody_looks(
    store: JobStore, settings: Settings
) -> None:
    assert failure(store) == "No reaper has scanned for lost jobs yet."
    messenger = Messenger(settings, store)
    try:
        Reaper(store, messenger, lambda _: None).run_once()
    finally:
        messenger.close()
    assert failure(store) == ""
    store.redis.set(store.keys.reaped, store.now() - 3 * store.lease_seconds - 100)
    assert re.fullmatch(r"No reaper has scanned for lost jobs for \d+ s\.", failure(store))


def test_a_reaper_that_is_told_to_stop_ends_at_once(
    service: list[subprocess.Popen[bytes]], store: JobStore, wait_until: Wait
) -> None:
    status = Path(f"/proc/{service[2].pid}/status")

    def listens() -> bool:
        """Whether the process has a handler of SIGTERM."""
        caught = re.search(r"SigCgt:\s*(\w+)", status.read_text())
        return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)

    wait_until(listens, what="the reaper's handler")
    service[2].terminate()
    assert service[2].wait(20) == 0
