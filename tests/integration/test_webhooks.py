"""Webhooks: delivered at least once, through failures and restarts, never where they must not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.client.client import Client
from api.local.redis_server import free_port
from jobs.model.record import Attempt, Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.webhooks import post, sender
from jobs.webhooks.outbox import Outbox
from jobs.webhooks.post import NotDeliveredError, Poster
from jobs.webhooks.sender import Sender

Wait = Callable[..., Any]
SECRET = "a secret of the tests"


class Receiver:
    """A web server that notes what it is told; `answers` are the next statuses, then 200."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.pause = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((dict(self.headers), body))
                time.sleep(outer.pause)
                status = outer.answers.pop(0) if outer.answers else 200
                self.send_response(status)
                self.send_header("Location", f"{outer.url}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def local(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_private": True, "webhook_secret": SECRET})


@pytest.fixture
def sending(local: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sender]:
    """A sender that works already, and tries again soon."""
    monkeypatch.setattr(sender, "_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(sender, "_FIRST_SECONDS", 0.02)
    sending = Sender(local)
    sending.start()
    yield sending
    sending.stop()


def submit(store: JobStore, url: str, *on: str, **hook: Any) -> Job:
    notify = [{"url": url, "on": list(on) or ["finished"], **hook}]
    spec = {"name": "a", "command": ["true"], "notify": notify, "retry": {"backoff_seconds": 0}}
    return store.submit(JobSpec.model_validate(spec))


def end(store: JobStore, reason: Reason, message: str = "") -> None:
    job = store.claim("default", "w")
    assert job is not None
    assert job.current is not None
    ended = job.current.model_copy(
        update={"reason": reason, "ended_at": store.now(), "message": message}
    )
    store.finish(job.id, Attempt.model_validate(ended))


def left(store: JobStore) -> int:
    return int(store.redis.zcard(store.keys.notices))


def test_each_event_that_is_asked_for_is_told_and_signed(
    store: JobStore, receiver: Receiver, sending: Sender, wait_until: Wait
) -> None:
    job = submit(
        store, f"{receiver.url}/hook?x=1", "submitted", "started", "preempted", "lost", "retried",
        "failed",
    )  # fmt: skip
    for reason in (Reason.PREEMPTED, Reason.LOST, Reason.ERROR, Reason.DIVERGED):
        end(store, reason, "why it ended")
    expected = ["submitted", *("started", "preempted"), *("started", "lost"),
                *("started", "retried"), *("started", "failed")]  # fmt: skip
    wait_until(lambda: len(receiver.got) == len(expected), what="all notices")
    assert sorted(receiver.types) == sorted(f"job.{name}" for name in expected)
    wait_until(lambda: left(store) == 0, what="an empty outbox")
    ids = set()
    for headers, body in receiver.got:
        assert headers["Host"] == receiver.host
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        made = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(made).decode()}"
        assert json.loads(body)["data"]["job"] == job.id
        ids.add(headers["webhook-id"])
    assert len(ids) == len(expected)
    failed = next(json.loads(body) for _, body in receiver.got if b"job.failed" in body)
    assert failed["data"]["message"].startswith("why it ended")
    assert store.redis.hlen(store.keys.notices_content) == 0


def test_what_is_not_asked_for_is_not_told(store: JobStore, receiver: Receiver) -> None:
    submit(store, receiver.url, "finished")
    end(store, Reason.PREEMPTED)
    assert left(store) == 0
    end(store, Reason.COMPLETED)
    assert left(store) == 1


def test_a_cancelled_and_a_paused_job_are_told(
    store: JobStore, receiver: Receiver, sending: Sender, wait_until: Wait
) -> None:
    job = submit(store, receiver.url, "cancelled", "paused")
    claimed = store.claim("default", "w")
    assert claimed is not None
    assert claimed.current is not None
    store.request(job.id, Request.PAUSE)
    ended = claimed.current.model_copy(update={"reason": Reason.PAUSED, "ended_at": store.now()})
    store.finish(job.id, ended)
    store.request(job.id, Request.CANCEL)
    wait_until(lambda: sorted(receiver.types) == ["job.cancelled", "job.paused"])


def test_a_notice_is_tried_again_with_the_same_id_until_it_is_accepted(
    store: JobStore, receiver: Receiver, sending: Sender, wait_until: Wait
) -> None:
    receiver.answers = [500, 503, 404, 302]
    submit(store, receiver.url)
    end(store, Reason.COMPLETED)
    wait_until(lambda: len(receiver.got) == 5 and left(store) == 0, what="the fifth try")
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    time.sleep(0.1)
    assert len(receiver.got) == 5, "a redirect was followed, or a delivered one sent again"


def test_a_receiver_that_is_gone_is_given_up_and_the_job_says_so(
    store: JobStore, receiver: Receiver, sending: Sender, wait_until: Wait
) -> None:
    receiver.answers = [410]
    job = submit(store, receiver.url)
    end(store, Reason.COMPLETED)

    def failed() -> list[Any]:
        return [event for event in store.events(job.id) if event.type == "webhook_failed"]

    (event,) = wait_until(failed, what="the event")
    assert event.data == {"event": "finished", "message": "it answers 410"}
    assert left(store) == 0


def test_notices_outlive_the_process_that_took_them(
    store: JobStore, receiver: Receiver, local: Settings, wait_until: Wait,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    submit(store, receiver.url)
    end(store, Reason.COMPLETED)
    outbox = Outbox(store.redis, store.prefix)
    assert len(outbox.take(10)) == 1
    assert outbox.take(10) == [], "another process sends it already"
    # The process that took it is gone; after a while another one has it.
    store.redis.zadd(
        store.keys.notices, dict.fromkeys(store.redis.zrange(store.keys.notices, 0, -1), 1)
    )
    other = Sender(local)
    assert other.run_once() == 1
    wait_until(lambda: receiver.types == ["job.finished"])
    wait_until(lambda: left(store) == 0)
    other.stop()


def test_notices_outlive_an_api_that_is_killed(
    redis_url: str, store: JobStore, receiver: Receiver, tmp_path: Path, wait_until: Wait,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SPECTRAIN_WEBHOOK_PRIVATE", "true")
    receiver.answers = [503]
    with served(redis_url, tmp_path) as url:
        spec = {"name": "a", "command": ["true"]}
        notify = [{"url": receiver.url, "on": ["cancelled", "finished"]}]
        first = httpx.post(f"{url}/v1/jobs", json=spec | {"notify": notify}).json()["id"]
        httpx.post(f"{url}/v1/jobs/{first}/cancel").raise_for_status()
        wait_until(lambda: receiver.types == ["job.cancelled"], what="the first try")
    second = submit(store, receiver.url, "finished").id
    end(store, Reason.COMPLETED)
    assert receiver.types == ["job.cancelled"], "no API lives"
    with served(redis_url, tmp_path):
        wait_until(lambda: left(store) == 0, what="an empty outbox")
    told = {(json.loads(body)["data"]["job"], h["webhook-id"]) for h, body in receiver.got}
    assert [job for job, _ in sorted(told)] == sorted([first, second])


@contextmanager
def served(redis_url: str, storage: Path) -> Iterator[str]:
    """The URL of an API that is killed at the end."""
    port = free_port("127.0.0.1")
    environment = os.environ | {
        "SPECTRAIN_REDIS_URL": redis_url, "SPECTRAIN_STORAGE_URL": storage.as_uri(),
        "SPECTRAIN_API_PORT": str(port),
    }  # fmt: skip
    command = [sys.executable, "-m", "api.server.serve"]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        with Client(f"http://127.0.0.1:{port}", patience=30) as client:
            list(client.list())
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_slow_receiver_delays_nobody_else(
    store: JobStore, receiver: Receiver, local: Settings, wait_until: Wait
) -> None:
    receiver.pause = 3.0
    other = Receiver()
    sending = Sender(local)
    try:
        for url in (receiver.url, other.url):
            submit(store, url)
            end(store, Reason.COMPLETED)
        assert sending.run_once() == 2
        wait_until(lambda: other.types, what="the other receiver", seconds=2.5)
    finally:
        sending.stop()
        other.close()


def test_one_that_never_answers_costs_its_time_and_no_more(receiver: Receiver) -> None:
    receiver.pause = 3.0
    poster = Poster(anywhere=True, seconds=0.3)
    begun = time.monotonic()
    with pytest.raises(NotDeliveredError, match="did not answer in time"):
        poster.post(receiver.url, b"{}", {})
    assert time.monotonic() - begun < 2.5


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0"])
def test_nothing_is_sent_to_this_machine(receiver: Receiver, host: str) -> None:
    port = receiver.host.rpartition(":")[2]
    with pytest.raises(NotDeliveredError):
        Poster(anywhere=False).post(f"http://{host}:{port}/", b"{}", {})
    assert receiver.got == []


def test_the_address_that_was_checked_is_connected_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def resolve(host: str, port: int, *, anywhere: bool) -> list[str]:
        asked.append((host, anywhere))
        return ["127.0.0.1"]

    monkeypatch.setattr(post, "resolve", resolve)
    port = receiver.host.rpartition(":")[2]
    Poster(anywhere=False).post(f"http://hooks.example:{port}/x", b"{}", {})
    assert asked == [("hooks.example", False)], "it was looked up once"
    assert receiver.got[0][0]["Host"] == f"hooks.example:{port}"
