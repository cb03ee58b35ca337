"""Spot notices: fakes of the metadata services of AWS, GCP and Azure, and real workers."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from jobs.messages import Messenger
from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State
from jobs.model.workers import WorkerState
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from tests.integration.one_worker import worker_settings
from tests.integration.warm_python import Program, WarmPython
from worker.spot.notices import InvalidAnswerError, Notice
from worker.spot.services import open_service
from worker.spot.watch import SpotWatch

Wait = Callable[..., Any]


# -- the services ------------------------------------------------------------------------------


class Fake(ABC):
    """A metadata service on loopback; `fault` is how it fails, '' while it is well."""

    def __init__(self) -> None:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do(self) -> None:
                fake.requests.append(f"{self.command} {self.path}")
                if not fake.fails(self):
                    url = urlsplit(self.path)
                    fake.answer(self, url.path, {k: v[0] for k, v in parse_qs(url.query).items()})

            do_GET = do_PUT = do_POST = do  # noqa: N815 - the names of http.server

            def date_time_string(self, timestamp: float | None = None) -> str:
                return format_datetime(datetime.now(UTC) + fake.ahead, usegmt=True)

            def log_message(self, *_: object) -> None:
                pass

        self.requests: list[str] = []
        self.fault = ""
        self.ahead = timedelta(0)  # of the machine's clock
        self.changed = threading.Condition()
        self.closed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()

    @abstractmethod
    def answer(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> None:
        """Answers as the cloud's service does."""

    def fails(self, request: BaseHTTPRequestHandler) -> bool:
        match self.fault:
            case "":
                return False
            case "500":
                send(request, 500, "Internal Server Error")
            case "garbage":
                send(request, 200, '\x00<html>{"action": TRUE', {"ETag": "abc"})
            case "no HTTP":
                request.wfile.write(b"\x16\x03\x01\x02 nonsense\r\n" * 50)
            case "hangs up":
                pass
            case "hangs":
                self.closed.wait(60)
            case "drips":
                request.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
                while not self.closed.wait(0.1) and not request.wfile.closed:
                    try:
                        request.wfile.write(b" ")
                    except OSError:
                        break
            case "half":
                request.wfile.write(b"HTTP/1.0 200 OK\r\nMetadata-Flavor: Google\r\n"
                                    b"Content-Length: 9999\r\n\r\nTRUE")  # fmt: skip
        return True


def send(
    request: BaseHTTPRequestHandler, status: int, text: str, headers: dict[str, str] | None = None
) -> None:
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(text)))
    request.end_headers()
    request.wfile.write(text.encode())


class FakeAws(Fake):
    """IMDSv2, the older version turned off; its tokens last for as many polls as a test sets."""

    cloud = "aws"
    reason = "spot notice (aws): terminate at "

    def __init__(self) -> None:
        super().__init__()
        self.documents: dict[str, str] = {}
        self.tokens: set[str] = set()

    def notice(self, seconds: float = 120) -> None:
        at = f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"
        self.documents["spot/instance-action"] = json.dumps({"action": "terminate", "time": at})

    def recommend(self) -> None:
        document = {"noticeTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
        self.documents["events/recommendations/rebalance"] = json.dumps(document)

    def withdraw(self) -> None:
        self.documents.clear()

    def answer(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> None:
        if path == "/latest/api/token":
            life = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            if request.command != "PUT" or not life.isdigit() or not 1 <= int(life) <= 21600:
                return send(request, 400, "Bad Request")
            self.tokens.add(f"token-{len(self.requests)}==")
            return send(request, 200, f"token-{len(self.requests)}==")
        if request.headers.get("X-aws-ec2-metadata-token") not in self.tokens:
            return send(request, 401, "Unauthorized")
        document = self.documents.get(path.removeprefix("/latest/meta-data/"))
        return send(request, 200 if document else 404, document or "Not Found")


class FakeGcp(Fake):
    """The metadata server, which answers a waiting call when the value changes."""

    cloud = "gcp"
    reason = "spot notice (gcp): preempt at once"

    def __init__(self) -> None:
        super().__init__()
        self.values = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self.waiting = threading.Event()
        self.flavor = "Google"

    def notice(self) -> None:
        self.set("preempted", "TRUE")

    def withdraw(self) -> None:
        self.set("preempted", "FALSE")

    def set(self, name: str, value: str) -> None:
        with self.changed:
            self.values[name] = value
            self.changed.notify_all()

    def answer(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> None:
        name = path.removeprefix("/computeMetadata/v1/instance/")
        if request.headers.get("Metadata-Flavor") != "Google":
            return send(request, 403, "Missing Metadata-Flavor:Google header.")
        if name not in self.values:
            return send(request, 404, "Not Found")
        with self.changed:
            seen = query.get("last_etag", self.etag(name))
            if query.get("wait_for_change") == "true" and seen == self.etag(name):
                self.waiting.set()
                self.changed.wait_for(
                    lambda: self.etag(name) != seen, float(query.get("timeout_sec", "60"))
                )
            headers = {"Metadata-Flavor": self.flavor, "ETag": self.etag(name)}
            return send(request, 200, self.values[name], headers)

    def etag(self, name: str) -> str:
        return f"{hash(self.values[name]) & 0xFFFFFFFF:x}"


class FakeAzure(Fake):
    """Scheduled Events of the virtual machine train_7 and its neighbours."""

    cloud = "azure"
    reason = "spot notice (azure): preempt at "

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def notice(self, *machines: str, kind: str = "Preempt", seconds: float = 31) -> None:
        at = datetime.now(UTC) + timedelta(seconds=seconds)
        self.events.append({
            "EventId": f"602d9444-d2cd-49c7-8624-{len(self.events):012}", "EventType": kind,
            "ResourceType": "VirtualMachine", "Resources": list(machines) or ["train_7"],
            "EventStatus": "Scheduled", "NotBefore": format_datetime(at, usegmt=True),
            "Description": "", "EventSource": "Platform", "DurationInSeconds": -1,
        })  # fmt: skip

    def withdraw(self) -> None:
        self.events.clear()

    def answer(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> None:
        if request.headers.get("Metadata") != "true" or "api-version" not in query:
            return send(request, 400, '{"error": "Bad request"}')
        if path == "/metadata/instance/compute/name" and query.get("format") == "text":
            return send(request, 200, "train_7")
        if path == "/metadata/scheduledevents":
            document = {"DocumentIncarnation": len(self.events), "Events": self.events}
            return send(request, 200, json.dumps(document))
        return send(request, 404, '{"error": "Not found"}')


AnyFake = FakeAws | FakeGcp | FakeAzure
CLOUDS = [FakeAws, FakeGcp, FakeAzure]


@pytest.fixture(params=CLOUDS, ids=["aws", "gcp", "azure"])
def fake(request: pytest.FixtureRequest) -> Iterator[AnyFake]:
    fake = request.param()
    yield fake
    fake.close()


@pytest.fixture
def aws() -> Iterator[FakeAws]:
    fake = FakeAws()
    yield fake
    fake.close()


# -- the calls to them ---------------------------------------------------------------------------


def test_a_service_returns_a_notice_until_it_is_withdrawn(
    fake: AnyFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    service = open_service(fake.cloud, fake.url, wait_seconds=0.1)
    assert service.poll() is None
    fake.notice()
    notice = service.poll()
    assert notice is not None
    assert str(notice).startswith(fake.reason)
    assert 25 < notice.left <= 120
    fake.withdraw()
    assert service.poll() is None
    assert not [line for line in fake.requests if line.startswith("POST")], (
        "nothing is acknowledged"
    )


@pytest.mark.parametrize("hours", [-1, 1])
def test_times_are_those_of_the_service_however_wrong_the_clock_of_the_machine(
    aws: FakeAws, hours: int
) -> None:
    aws.ahead = timedelta(hours=hours)
    aws.notice(seconds=120 + 3600 * hours)
    notice = open_service("aws", aws.url).poll()
    assert notice is not None
    assert 110 < notice.left <= 121


def test_a_token_of_aws_is_used_until_it_expires(aws: FakeAws) -> None:
    service = open_service("aws", aws.url)
    for _ in range(3):
        assert service.poll() is None
    assert len(aws.tokens) == 1
    aws.tokens.clear()
    aws.notice()
    assert service.poll() is not None
    assert len(aws.tokens) == 1


def test_a_call_to_gcp_waits_and_comes_back_with_the_notice(wait_until: Wait) -> None:
    fake, found = FakeGcp(), []
    service = open_service("gcp", fake.url, wait_seconds=60)
    assert service.poll() is None
    polling = threading.Thread(target=lambda: found.append(service.poll()))
    polling.start()
    assert fake.waiting.wait(30)
    fake.notice()
    polling.join(30)
    assert found
    assert str(found[0]) == "spot notice (gcp): preempt at once"
    fake.close()


def test_maintenance_of_gcp_that_ends_the_machine_is_seen_beside_it() -> None:
    fake = FakeGcp()
    service = open_service("gcp", fake.url, wait_seconds=0.1)
    fake.set("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
    assert service.poll() is None
    fake.set("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
    assert str(service.poll()) == "spot notice (gcp): terminate for maintenance at once"
    fake.close()


def test_who_is_not_the_metadata_server_of_google_is_not_believed() -> None:
    fake = FakeGcp()
    fake.flavor = "Somebody"
    fake.notice()
    with pytest.raises(InvalidAnswerError, match="not Google's metadata server"):
        open_service("gcp", fake.url).poll()
    fake.close()


def test_the_neighbours_of_an_azure_machine_go_alone() -> None:
    fake = FakeAzure()
    service = open_service("azure", fake.url)
    fake.notice("train_3", "train_77")
    assert service.poll() is None
    fake.close()


FAULTS = ["500", "garbage", "no HTTP", "hangs up", "hangs", "drips", "half"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_service_that_fails_is_no_notice_and_holds_up_nothing(
    fake: AnyFake,
    fault: str,
    wait_until: Wait,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    notices: list[Notice] = []
    pauses: list[float] = []
    watch = SpotWatch(
        open_service(fake.cloud, fake.url, seconds=0.5, wait_seconds=0.1),
        grace_seconds=60,
        on_notice=notices.append,
        wait=lambda seconds: (pauses.append(seconds), time.sleep(0.01)),
    )  # fmt: skip
    assert watch._poll(watch._service) is False
    watch.start()
    fake.fault = fault
    wait_until(lambda: watch._failures >= 5, what="failures")
    assert not notices
    assert max(pauses) <= 5, "one that has answered is polled again soon"
    fake.fault = ""
    fake.notice()
    wait_until(lambda: notices, what="the notice")
    assert len(notices) == 1
    assert len([r for r in caplog.records if "cannot see spot notices" in r.message]) == 1


def test_a_service_that_never_answers_is_logged_once_and_polled_ever_more_rarely(
    wait_until: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    done = threading.Event()

    def wait(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 12:
            done.set()
            threading.Event().wait()

    fake = FakeAws()
    fake.close()
    service = open_service("aws", fake.url)  # nobody listens there any more
    SpotWatch(service, grace_seconds=60, on_notice=pytest.fail, wait=wait).start()
    assert done.wait(60)
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses[-1] == 300
    assert len([r for r in caplog.records if "cannot see spot notices" in r.message]) == 1


def test_outside_clouds_nothing_is_polled_and_nothing_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = threading.active_count()
    watch = SpotWatch(None, grace_seconds=60, on_notice=pytest.fail)
    watch.start()
    assert (watch.standing, threading.active_count(), caplog.records) == ("", before, [])


def test_an_event_of_next_week_waits_until_shortly_before_it() -> None:
    fake, notices = FakeAzure(), []
    watch = SpotWatch(open_service("azure", fake.url), grace_seconds=300, on_notice=notices.append)
    watch._started = True
    fake.notice(kind="Redeploy", seconds=7 * 86400)
    assert not watch._poll(watch._service)
    fake.withdraw()
    fake.notice(kind="Redeploy", seconds=350)
    assert watch._poll(watch._service), "a long grace is begun in time"
    assert [notice.action for notice in notices] == ["redeploy"]
    fake.close()


def test_a_recommendation_of_aws_is_told_once_and_not_followed(
    aws: FakeAws, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    aws.recommend()
    watch = SpotWatch(open_service("aws", aws.url), grace_seconds=60, on_notice=pytest.fail)
    watch._started = True
    for _ in range(3):
        assert not watch._poll(watch._service)
    assert len([r for r in caplog.records if "AWS recommends" in r.message]) == 1


# -- real workers ------------------------------------------------------------------------------

TRAIN = """
import json, os, sys, time
from pathlib import Path
from monitoring import preemption, step_counter
state = Path(os.environ["SPECTRAIN_RUN_DIR"]) / "state.json"
start = json.loads(state.read_text())["step"] + 1 if state.exists() else 0
for step in range(start, start + 100000 if start == 0 else start + 20):
    step_counter.beat(step)
    time.sleep(0.01)
    if preemption.stop_requested():
        state.write_text(json.dumps({"step": step}))
        sys.exit(143)
"""
STUBBORN = """
import signal, time
from monitoring import step_counter
signal.signal(signal.SIGTERM, lambda *_: step_counter.beat(1))
step_counter.beat(0)
while True:
    time.sleep(0.05)
"""

StartWorker = Callable[..., Program]


@pytest.fixture
def start_worker(settings: Settings, warm_python: WarmPython) -> Iterator[StartWorker]:
    """Starts a worker with more settings; all are ended with the test."""
    environment = {
        **{k: v for k, v in os.environ.items() if k != "REDIS_URL"},
        **worker_settings(settings),
        "SPECTRAIN_LEASE_SECONDS": "30",
        "SPECTRAIN_WARM_START": "0",
        "HTTP_PROXY": "http://127.0.0.1:1",
    }
    started: list[Program] = []

    def start(fake: AnyFake | None = None, **more: str) -> Program:
        spot = {"SPECTRAIN_SPOT": "off"}
        if fake is not None:
            spot = {"SPECTRAIN_SPOT": fake.cloud, "SPECTRAIN_SPOT_METADATA_URL": fake.url}
        started.append(warm_python.start("worker", env={**environment, **spot, **more}))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def registry(store: JobStore) -> WorkerRegistry:
    return WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=30)


@pytest.fixture
def submit(settings: Settings, store: JobStore) -> Iterator[Callable[[str], Job]]:
    messenger = Messenger(settings, store)

    def submit(script: str) -> Job:
        job = store.submit(JobSpec(name="a", command=["python", "-c", script]))
        messenger.flush(store.now())
        return job

    yield submit
    messenger.close()


def reached(store: JobStore, job: Job, step: int) -> bool:
    progress = store.get(job.id).progress
    return progress is not None and (progress.step or 0) >= step


def test_a_notice_costs_no_step_and_the_job_goes_on_elsewhere(
    fake: AnyFake,
    start_worker: StartWorker,
    submit: Callable[[str], Job],
    store: JobStore,
    registry: WorkerRegistry,
    wait_until: Wait,
) -> None:
    taken_away = start_worker(fake)
    wait_until(registry.workers, what="the worker")
    job = submit(TRAIN)
    wait_until(lambda: reached(store, job, 20), what="some steps")
    fake.notice()
    assert taken_away.wait(60) == 0
    ended = store.get(job.id)
    assert (ended.state, ended.reason) == (State.QUEUED, Reason.PREEMPTED)
    assert ended.attempts[0].message.startswith(fake.reason)
    assert not registry.workers()
    start_worker()
    wait_until(lambda: store.get(job.id).state is State.SUCCEEDED, what="the job, elsewhere")
    first, second = store.get(job.id).attempts
    assert second.first_step == (first.last_step or 0) + 1
    assert second.steps_recomputed == 0
    assert first.worker != second.worker


def test_a_notice_is_shown_and_a_sigterm_of_the_platform_after_it_is_no_second_one(
    aws: FakeAws,
    start_worker: StartWorker,
    submit: Callable[[str], Job],
    store: JobStore,
    registry: WorkerRegistry,
    wait_until: Wait,
) -> None:
    worker = start_worker(aws, SPECTRAIN_GRACE_SECONDS="600")
    wait_until(registry.workers, what="the worker")
    job = submit(STUBBORN)
    wait_until(lambda: reached(store, job, 0), what="the child")
    aws.notice(seconds=600)
    wait_until(lambda: reached(store, job, 1), what="the word at the child")
    (leaving,) = wait_until(
        lambda: [w for w in registry.workers() if w.state is WorkerState.DRAINING], what="its word"
    )
    assert leaving.job == job.id
    assert leaving.reason.startswith(aws.reason)
    other = submit(TRAIN)
    os.kill(worker.pid, signal.SIGTERM)
    for _ in range(3):
        before = store.redis.zscore(store.keys.leases, job.id)
        wait_until(
            lambda: store.redis.zscore(store.keys.leases, job.id) != before,  # noqa: B023
            what="a renewal",
        )
    assert worker.poll() is None
    assert store.get(job.id).state is State.RUNNING
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait(60) == 0
    ended = store.get(job.id)
    assert (ended.state, ended.reason) == (State.QUEUED, Reason.PREEMPTED)
    assert ended.attempts[0].exit_code == 137
    assert store.get(other.id).attempt == 0


def test_a_worker_that_is_started_under_a_notice_takes_no_job_until_it_is_withdrawn(
    fake: AnyFake,
    start_worker: StartWorker,
    submit: Callable[[str], Job],
    store: JobStore,
    registry: WorkerRegistry,
    wait_until: Wait,
) -> None:
    """It does not leave: who started it would only start it again."""
    fake.notice()
    worker = start_worker(fake)
    (there,) = wait_until(registry.workers, what="the worker")
    assert there.state is WorkerState.DRAINING
    assert there.reason.startswith(fake.reason)
    job = submit("print('runs')")
    before = len(fake.requests)
    wait_until(lambda: len(fake.requests) > before, what="another poll")
    assert store.get(job.id).attempt == 0
    assert worker.poll() is None
    fake.withdraw()
    wait_until(lambda: store.get(job.id).state is State.SUCCEEDED, what="the job")
    fake.notice()
    assert worker.wait(60) == 0
