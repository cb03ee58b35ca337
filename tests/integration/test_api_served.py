"""The API as it is served, through the client and the command line."""

from __future__ import annotations

import http.client
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from api.client.client import ApiError, Client, Unreachable
from api.local.redis_server import RedisConfig, find_redis_server, free_port
from jobs.model.record import Attempt, Progress
from jobs.model.states import Reason
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from monitoring.storage.moments import Entry, Moment, encode
from tests.integration.warm_python import WarmPython

GOOD: dict[str, Any] = {"name": "wave", "train": {"steps": 100}}


@contextmanager
def serving(
    redis_url: str, storage: Path | str, wait_until: Callable[..., Any], token: str = ""
) -> Iterator[str]:
    """The URL of a service that is served as `spectrain api` does, and stopped at the end."""
    port = free_port("127.0.0.1")
    environment = os.environ | {
        "SPECTRAIN_REDIS_URL": redis_url,
        "SPECTRAIN_STORAGE_URL": storage if isinstance(storage, str) else storage.as_uri(),
        # The tests claim jobs and keep no lease: its reaper is to judge none of them.
        "SPECTRAIN_LEASE_SECONDS": "600",
        "SPECTRAIN_API_TOKENS": token,
    }
    arguments = [sys.executable, "-m", "api.cli", "api", "--port", str(port)]
    process = subprocess.Popen(arguments, env=environment, start_new_session=True)
    try:
        with Client(f"http://127.0.0.1:{port}", token or None, patience=30) as client:
            list(client.list())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(20) == 0
        wait_until(lambda: not group_lives(process.pid), what="the end of every API process")


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def served(
    redis_server: str, tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., Any]
) -> Iterator[tuple[str, Path]]:
    storage = tmp_path_factory.mktemp("experiments")
    with serving(redis_server, storage, wait_until) as url:
        yield url, storage


@pytest.fixture
def url(served: tuple[str, Path], redis_url: str) -> str:
    """The service, with an empty Redis."""
    return served[0]


@pytest.fixture
def storage(served: tuple[str, Path]) -> Path:
    return served[1]


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, patience=1) as client:
        yield client


@pytest.fixture
def spectrain(
    url: str, tmp_path: Path, warm_python: WarmPython
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line against the service."""
    return partial(
        warm_python.run, "api.cli", env=os.environ | {"SPECTRAIN_URL": url}, cwd=tmp_path
    )


def attempt(number: int, reason: Reason, **more: Any) -> Attempt:
    return Attempt(number=number, worker="w1", started_at=1.0, ended_at=2.0, reason=reason, **more)


def run_directory(storage: Path, job_id: str) -> Path:
    root = storage / job_id
    (root / "logs").mkdir(parents=True)
    return root


# -- the wire ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_two_megabytes_are_refused_however_they_are_sent(
    url: str, redis_url: str, chunked: bool
) -> None:
    body = json.dumps(GOOD | {"labels": {"a": "x" * 2_000_000}}).encode()
    assert post(url, body, chunked=chunked) == (413, "application/problem+json")
    with Redis.from_url(redis_url) as redis:
        assert redis.keys("*job*") == []


def test_a_chunked_body_that_fits_is_taken(url: str) -> None:
    assert post(url, json.dumps(GOOD).encode(), chunked=True) == (201, "application/json")


def post(url: str, body: bytes, *, chunked: bool) -> tuple[int, str]:
    headers = {"Content-Type": "application/json"}
    parts = (body[i : i + 65536] for i in range(0, len(body), 65536))
    with closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)) as wire:
        sent = parts if chunked else body
        # A server that has refused a body need not take the rest of it.
        with suppress(BrokenPipeError, ConnectionResetError):
            wire.request("POST", "/v1/jobs", body=sent, headers=headers, encode_chunked=chunked)
        with wire.getresponse() as answer:
            return answer.status, str(answer.headers["Content-Type"])


# -- the client -------------------------------------------------------------------------------


def test_a_job_goes_its_way_through_the_client(client: Client, store: JobStore) -> None:
    job = client.submit(GOOD)
    assert client.get(job.id).queue_position == 0
    store.claim("default", "w1")
    assert client.preempt(job.id).request == "preempt"
    store.finish(job.id, attempt(1, Reason.PREEMPTED))
    store.claim("default", "w1")
    store.finish(job.id, attempt(2, Reason.COMPLETED))
    assert client.wait(job.id, timeout=10).state == "succeeded"
    assert [a.reason for a in client.get(job.id).attempts] == ["preempted", "completed"]
    assert next(client.events(job.id)).type == "submitted"
    client.delete(job.id)
    with pytest.raises(ApiError, match="There is no job") as caught:
        client.get(job.id)
    assert caught.value.status == 404


def test_all_jobs_are_listed_page_by_page(client: Client, store: JobStore) -> None:
    spec = client.submit(GOOD | {"labels": {"team": "waves"}}).spec
    ids = [store.submit(spec).id for _ in range(230)]
    assert [job.id for job in client.list(limit=None)][:230] == ids[::-1]
    assert len(list(client.list(limit=205))) == 205
    assert len(list(client.list(labels={"team": "waves"}, limit=3))) == 3
    assert list(client.list(name="other")) == []


def test_a_refusal_reads_well(client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        client.submit({"name": "a/b", "train": {"steps": 0}})
    assert str(caught.value).splitlines() == [
        "2 fields are invalid; see errors.",
        "  name: given \"a/b\", allowed: String should match pattern '^[a-z0-9_-]{1,63}$'",
        "  train.steps: given 0, allowed: greater than or equal to 1",
    ]


def test_an_unreachable_service_is_said_after_a_bounded_time() -> None:
    started = time.monotonic()
    nowhere = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    with Client(nowhere, patience=0.5) as client, pytest.raises(Unreachable) as caught:
        client.get("wave-23456789")
    assert str(caught.value).startswith(f"No service answers at {nowhere}")
    assert time.monotonic() - started < 20


def test_a_followed_log_ends_with_the_job_and_loses_no_character(
    client: Client, store: JobStore, storage: Path
) -> None:
    job = client.submit(GOOD)
    store.claim("default", "w1")
    log = run_directory(storage, job.id) / "logs/output.log"
    log.write_bytes("first ∿"[:-1].encode())
    pieces = client.logs(job.id, follow=True, poll=0.01)
    text = next(pieces)
    with log.open("ab") as file:
        file.write("∿".encode()[:2])
    text += next(pieces)
    with log.open("ab") as file:
        file.write("∿".encode()[2:] + b"\nlast\n")
    store.finish(job.id, attempt(1, Reason.COMPLETED))
    assert text + "".join(pieces) == "first ∿\nlast\n"


def test_the_log_of_one_attempt_is_told_from_the_others(
    client: Client, storage: Path, spectrain: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    job = client.submit(GOOD)
    log = run_directory(storage, job.id) / "logs/output.log"
    # Pages end where they end: also in the middle of a mark.
    first, second = "[1] ∿ one\n" * 100_000, "[2] two\n[1] not this one\n[12] nor this one\n[2] end"
    log.write_text(first + second)
    assert "".join(client.logs(job.id, attempt=1)) == first + "[1] not this one\n"
    assert "".join(client.logs(job.id, attempt=2)) == "[2] two\n[2] end"
    assert spectrain("logs", job.id, "--attempt", "2").stdout == "[2] two\n[2] end"


def test_metrics_are_read_to_the_end(client: Client, storage: Path) -> None:
    job = client.submit(GOOD)
    rows = [{"step": step, "loss": 1 / (step + 3)} for step in range(2500)]
    path = run_directory(storage, job.id) / "logs/metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(client.metrics(job.id)) == rows
    assert list(client.metrics(job.id, after_step=2498)) == rows[2499:]


def test_the_client_gives_numbers_that_are_not_finite_as_numbers(
    client: Client, storage: Path
) -> None:
    job = client.submit(GOOD)
    path = run_directory(storage, job.id) / "logs/metrics.jsonl"
    path.write_text(
        '{"step": 0, "loss": "NaN", "text": "\\\\NaN"}\n{"step": 1, "loss": -Infinity}\n'
    )
    first, second = client.metrics(job.id)
    assert math.isnan(first["loss"])
    assert (first["text"], second["loss"]) == ("NaN", -math.inf)


def test_a_run_is_fetched_once_and_only_what_changed_again(
    client: Client, storage: Path, tmp_path: Path
) -> None:
    job = client.submit(GOOD)
    run = run_directory(storage, job.id)
    files = {"results.json": b"{}", "logs/a #?%.log": b"x" * 3_000_000, "empty": b""}
    for name, data in files.items():
        (run / name).write_bytes(data)
    target = tmp_path / "here"
    fetched = client.fetch(job.id, target)
    assert {p.relative_to(target).as_posix(): p.read_bytes() for p in fetched} == files
    (run / "results.json").write_bytes(b"[]")
    before = {path: path.stat().st_ino for path in fetched}
    again = client.fetch(job.id, target)
    changed = [path.name for path in again if path.stat().st_ino != before[path]]
    assert changed == ["results.json"]
    assert (target / "results.json").read_bytes() == b"[]"
    assert len([path for path in target.rglob("*") if path.is_file()]) == 3


def test_the_links_of_a_run_are_fetched_unless_they_lead_out_of_it(
    client: Client, storage: Path, tmp_path: Path
) -> None:
    job = client.submit(GOOD)
    run = run_directory(storage, job.id)
    entries = {
        "work": Entry("directory", mode=0o755),
        "work/.hidden": Entry("file", 1, 0o644, content="1-a"),
        "work/last.ckpt": Entry("link", target=".hidden"),
        "work/out": Entry("link", target="../../etc"),
        "work/run": Entry("link", target="/etc"),
        "latest": Entry("link", target="work"),
    }
    (run / "work").mkdir()
    (run / "work/.hidden").write_text("x")
    (run / ".moments").mkdir()
    (run / ".moments/000001-000001.json").write_bytes(encode(Moment(1, 1, 0.0, entries)))
    target = tmp_path / "here"
    for _ in range(2):
        fetched = {path.relative_to(target).as_posix() for path in client.fetch(job.id, target)}
        assert fetched == {"work/.hidden", "work/last.ckpt", "latest"}
    assert (target / "latest").readlink() == Path("work")
    assert (target / "latest/last.ckpt").read_text() == "x"


# -- when Redis goes --------------------------------------------------------------------------


@pytest.fixture
def own_redis(
    tmp_path: Path, wait_until: Callable[..., Any]
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL and the process of a Redis server that the test may stop."""
    config = RedisConfig(tmp_path / "redis")
    process = subprocess.Popen([find_redis_server(), str(config.path)], stdout=subprocess.DEVNULL)
    wait_until(config.answers, what="Redis")
    yield config.url, process
    process.send_signal(signal.SIGCONT)
    process.terminate()
    process.wait()


@pytest.mark.parametrize("way", [signal.SIGSTOP, signal.SIGKILL])
def test_while_redis_is_frozen_or_gone_the_answer_is_503(
    own_redis: tuple[str, subprocess.Popen[bytes]],
    tmp_path: Path,
    wait_until: Callable[..., Any],
    way: signal.Signals,
) -> None:
    redis_url, redis = own_redis
    with serving(redis_url, tmp_path, wait_until) as url, Client(url, patience=0) as client:
        job = client.submit(GOOD)
        redis.send_signal(way)
        with pytest.raises(ApiError, match="Redis, which holds the jobs") as caught:
            client.get(job.id)
        assert caught.value.status == 503


def test_a_submission_is_tried_again_until_redis_is_back_and_made_once(
    own_redis: tuple[str, subprocess.Popen[bytes]],
    tmp_path: Path,
    wait_until: Callable[..., Any],
) -> None:
    redis_url, redis = own_redis
    with serving(redis_url, tmp_path, wait_until) as url, Client(url, patience=60) as client:
        redis.send_signal(signal.SIGSTOP)
        answered: list[str] = []
        thread = threading.Thread(target=lambda: answered.append(client.submit(GOOD).id))
        thread.start()
        with Client(url, patience=0) as other, pytest.raises(ApiError):
            list(other.list())
        redis.send_signal(signal.SIGCONT)
        thread.join(60)
        assert [job.id for job in client.list()] == answered


# -- the command line -------------------------------------------------------------------------


def test_the_command_line_submits_and_tells(
    spectrain: Callable[..., subprocess.CompletedProcess[str]], store: JobStore
) -> None:
    submitted = spectrain("submit", "-", text="name: wave\ntrain: {optimizer: {lr: 1e-3}}")
    job_id = submitted.stdout.strip()
    assert store.get(job_id).spec.name == "wave", submitted.stderr
    store.claim("default", "w1")
    store.renew(job_id, 1, Progress(step=41, first_step=0, total_steps=2000, loss=2.25))
    listed = spectrain("ls", "--state", "running")
    assert [part in listed.stdout for part in (job_id, "42/2000", "2.25")] == [True] * 3
    assert "asked to preempt" in spectrain("preempt", job_id[:6]).stdout
    store.finish(job_id, attempt(1, Reason.PREEMPTED, first_step=0, last_step=41))
    story = spectrain("show", job_id[-8:]).stdout
    assert "waiting    pool 'default' has no worker" in story
    assert "preempted" in story
    assert json.loads(spectrain("show", job_id, "--json").stdout)["id"] == job_id
    assert [job["id"] for job in json.loads(spectrain("ls", "--json").stdout)] == [job_id]
    assert "cancelled" in spectrain("cancel", job_id).stdout
    assert spectrain("rm", job_id).returncode == 0
    assert spectrain("ls").stdout == ""


def test_the_command_line_shows_workers_and_pools(
    spectrain: Callable[..., subprocess.CompletedProcess[str]], store: JobStore
) -> None:
    assert "No workers found." in spectrain("workers").stderr
    assert "No pools found." in spectrain("pools").stderr
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60)
    registry.renew("w1", pool="big", host="h", gpus=["NVIDIA L4", "NVIDIA L4"])
    (_, line) = spectrain("workers").stdout.splitlines()[::2]
    assert [part in line for part in ("w1", "big", "idle", "2 NVIDIA L4")] == [True] * 4
    (_, line) = spectrain("pools").stdout.splitlines()[::2]
    assert line.split() == ["big", "1", "0", "0", "0", "0", "0", "0"]
    assert json.loads(spectrain("workers", "--json").stdout)[0]["name"] == "w1"
    registry.renew("w2", pool="big", host="h")
    assert spectrain("worker", "drain", "1").stdout == "w1 is draining\n"
    assert "it was drained" in spectrain("workers").stdout
    assert spectrain("worker", "undrain", "w1").stdout == "w1 is idle\n"
    assert spectrain("worker", "drain", "w").stderr == "Error: 'w' is ambiguous: w1, w2.\n"
    assert spectrain("worker", "drain", "w3").stderr == "Error: There is no worker 'w3'.\n"
    assert json.loads(spectrain("pools", "--json").stdout)[0]["wanted"] == 0


def test_a_followed_submission_prints_the_log_and_ends_as_the_job_does(
    spectrain: Callable[..., subprocess.CompletedProcess[str]],
    store: JobStore,
    storage: Path,
    wait_until: Callable[..., Any],
) -> None:
    ended: list[subprocess.CompletedProcess[str]] = []
    text = json.dumps(GOOD)
    thread = threading.Thread(
        target=lambda: ended.append(spectrain("submit", "-", "--follow", text=text))
    )
    thread.start()
    job = wait_until(lambda: store.claim("default", "w1"), what="the submission")
    (run_directory(storage, job.id) / "logs/output.log").write_text("training\n")
    store.finish(job.id, attempt(1, Reason.DIVERGED, message="the loss is NaN"))
    thread.join(60)
    assert ended[0].stdout == f"{job.id}\ntraining\n"
    assert ended[0].returncode == 1
    assert ended[0].stderr == f"Error: {job.id} failed: the loss is NaN\n"


def test_what_goes_wrong_is_one_sentence_and_an_exit_code(
    spectrain: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    refused = spectrain("submit", "-", text="name: a/b\ntrain: {steps: 0}")
    assert refused.returncode == 1
    assert '  name: given "a/b", allowed: String should match' in refused.stderr
    cases = [
        (("show", "nothing"), 1, "There is no job 'nothing'."),
        (("resume", "wave-23456789"), 1, "There is no job 'wave-23456789'."),
        (("change", "wave-23456789", "--priority", "7"), 1, "There is no job 'wave-23456789'."),
        (("change", "wave-23456789"), 2, "nothing to change"),
        (("retry", "wave-23456789"), 1, "There is no job 'wave-23456789'."),
        (
            ("--url", "http://127.0.0.1:1", "--timeout", "0", "ls"),
            1,
            "No service answers at http://",
        ),
        (("--url", "nonsense", "ls"), 1, "No service answers at nonsense"),
        (("submit", "missing.yaml"), 2, "missing.yaml"),
        (("ls", "--label", "x"), 2, "KEY:VALUE"),
        (("ls", "--state", "done"), 2, "done"),
        (("frobnicate",), 2, "frobnicate"),
    ]
    for arguments, code, sentence in cases:
        ended = spectrain(*arguments)
        assert (ended.returncode, ended.stdout) == (code, ""), arguments
        assert sentence in ended.stderr
        assert "Traceback" not in ended.stderr


def test_the_files_of_a_run_are_fetched_into_a_directory_of_its_name(
    spectrain: Callable[..., subprocess.CompletedProcess[str]],
    store: JobStore,
    storage: Path,
    tmp_path: Path,
) -> None:
    job_id = spectrain("submit", "-", text=json.dumps(GOOD)).stdout.strip()
    (run_directory(storage, job_id) / "results.json").write_text("{}")
    assert spectrain("fetch", "wave").stdout == f"{job_id}/results.json\n"
    assert (tmp_path / job_id / "results.json").read_text() == "{}"
    assert spectrain("fetch", job_id, "there").stdout == "there/results.json\n"
