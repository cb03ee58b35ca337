"""What is wrong in the surroundings is found at the start, with a sentence that says what to do."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from api.local.redis_server import free_port
from api.server.app import create_app
from api.server.context import EXTENSION
from jobs.checks import Checks, Finding
from jobs.messages import Messenger
from jobs.model.spec import JobSpec
from jobs.model.states import State
from jobs.model.workers import WorkerState
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from machine.python import python_module
from monitoring.storage.open import open_storage
from monitoring.storage.probe import StorageProbe
from tests.integration.one_worker import DiskOf
from tests.integration.warm_python import WarmPython

Wait = Callable[..., Any]
Doctor = Callable[[Settings], tuple[int, str]]


def look(settings: Settings, **options: Any) -> dict[str, str]:
    """What is wrong, by part."""
    storage = open_storage(settings.storage_url, settings.s3_endpoint_url)
    probe = StorageProbe(storage, settings.storage_url)
    found = Checks(connect(settings), settings, probe, **options).run()
    return {one.part: one.problem for one in found if one.problem}


def readiness(settings: Settings) -> tuple[int, str]:
    app = create_app(settings)
    answer = app.test_client().get("/readyz")
    app.extensions[EXTENSION].close()
    return answer.status_code, answer.get_json().get("detail", "")


@pytest.fixture
def doctor(warm_python: WarmPython) -> Doctor:
    """Runs `spectrain doctor`: its exit code and what it prints."""

    def run(settings: Settings) -> tuple[int, str]:
        env = {
            **os.environ,
            "SPECTRAIN_REDIS_URL": settings.redis_url,
            "SPECTRAIN_STORAGE_URL": settings.storage_url,
            "SPECTRAIN_S3_ENDPOINT_URL": settings.s3_endpoint_url,
            "SPECTRAIN_SCRATCH_DIR": str(settings.scratch_dir),
        }
        ended = warm_python.run("api.cli", "doctor", env=env)
        assert "Traceback" not in ended.stderr
        return ended.returncode, ended.stdout

    return run


def changed(settings: Settings, **options: Any) -> Settings:
    return settings.model_copy(update=options)


# -- servers that refuse -------------------------------------------------------------------------


class Refuses(BaseHTTPRequestHandler):
    """An object store that accepts no credentials, as S3 says it."""

    code = "InvalidAccessKeyId"

    def do_GET(self) -> None:
        body = f"<Error><Code>{self.code}</Code><Message>no</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    do_HEAD = do_POST = do_GET  # noqa: N815 - names that http.server looks for

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Quiet(HTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does not trust the certificate hangs up: that is what is tested."""


@contextlib.contextmanager
def serving(
    handler: type[BaseHTTPRequestHandler], certificate: Path | None = None
) -> Iterator[int]:
    server = Quiet(("127.0.0.1", 0), handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate that only vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    text = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(text, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(text)
    )
    return path


# -- Redis ------------------------------------------------------------------------------------


def test_where_all_is_well_nothing_is_said(settings: Settings) -> None:
    assert look(settings) == {}
    assert readiness(settings) == (200, "")


def test_a_wrong_password_of_redis_is_told(settings: Settings) -> None:
    url = settings.redis_url
    wrong = changed(settings, redis_url=url.replace("redis://:", "redis://:not"))
    words = "refuses the password: put the right one in SPECTRAIN_REDIS_URL"
    assert words in look(wrong)["redis"]
    status, detail = readiness(wrong)
    assert status == 503
    assert words in detail


def test_a_redis_that_is_not_there_is_told(settings: Settings) -> None:
    away = changed(settings, redis_url=f"redis://127.0.0.1:{free_port()}")
    (problem,) = look(away).values()
    assert problem.startswith("Redis cannot be reached at 127.0.0.1:")


def test_a_certificate_of_redis_that_is_not_trusted_is_told(
    settings: Settings, certificate: Path
) -> None:
    with serving(Refuses, certificate) as port:
        found = look(changed(settings, redis_url=f"rediss://127.0.0.1:{port}"))
    assert "ssl_ca_certs=" in found["redis"]


def test_a_redis_that_may_throw_records_away_is_told(settings: Settings, store: JobStore) -> None:
    store.redis.config_set("maxmemory", "100mb")
    store.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert "set it to noeviction" in look(settings)["redis"]
    finally:
        store.redis.config_set("maxmemory-policy", "noeviction")
        store.redis.config_set("maxmemory", 0)


def test_a_redis_that_takes_no_writes_is_told(settings: Settings, store: JobStore) -> None:
    # What it does when its disk is full, too: it refuses writes with a sentence of its own.
    store.redis.config_set("min-replicas-to-write", 1)
    try:
        assert "Redis at 127.0.0.1:" in look(settings)["redis"]
        assert "NOREPLICAS" in look(settings)["redis"]
    finally:
        store.redis.config_set("min-replicas-to-write", 0)


# -- clocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "words"), [(3600, "ahead of"), (-3600, "behind")])
def test_a_clock_that_is_off_is_told_by_how_much_and_against_which(
    settings: Settings, s3_url: str, seconds: float, words: str
) -> None:
    found = look(changed(settings, storage_url=s3_url), clock=lambda: time.time() + seconds)
    assert re.search(rf"is (3599|360\d) s {words} that of Redis: .*NTP", found["clock"])
    assert re.search(rf"is (3599|360\d) s {words} that of storage", found["storage's clock"])


def test_clocks_that_differ_by_less_than_a_lease_are_well(settings: Settings) -> None:
    assert look(changed(settings, lease_seconds=60), clock=lambda: time.time() + 30) == {}


# -- storage ------------------------------------------------------------------------------------


def test_a_bucket_that_does_not_exist_is_told(
    settings: Settings, s3_url: str, doctor: Doctor
) -> None:
    wrong = changed(settings, storage_url="s3://no-such-bucket/runs")
    words = "there is no bucket 'no-such-bucket'"
    assert words in look(wrong)["storage"]
    status, detail = readiness(wrong)
    assert status == 503
    assert words in detail
    code, said = doctor(changed(wrong, s3_endpoint_url=os.environ["SPECTRAIN_S3_ENDPOINT_URL"]))
    assert code == 1
    assert f"bad  storage: {words}" in said
    assert "ok   redis\n" in said


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("InvalidAccessKeyId", "does not accept the credentials"),
        ("SignatureDoesNotMatch", "check AWS_SECRET_ACCESS_KEY"),
        ("AccessDenied", "they need s3:ListBucket"),
        ("RequestTimeTooSkewed", "the clock of this machine is wrong"),
    ],
)
def test_credentials_that_are_refused_are_told(
    settings: Settings, s3_url: str, code: str, words: str
) -> None:
    with serving(type("Store", (Refuses,), {"code": code})) as port:
        found = look(changed(settings, s3_endpoint_url=f"http://127.0.0.1:{port}",
                             storage_url="s3://runs"))  # fmt: skip
    assert words in found["storage"]


def test_a_certificate_of_the_store_that_is_not_trusted_is_told(
    settings: Settings, s3_url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with serving(Refuses, certificate) as port:
        store = changed(
            settings, s3_endpoint_url=f"https://127.0.0.1:{port}", storage_url="s3://runs"
        )
        assert "set AWS_CA_BUNDLE" in look(store)["storage"]


def test_a_full_volume_is_told_and_loses_nothing(settings: Settings, disk_of: DiskOf) -> None:
    small_volume = disk_of("64k")
    kept = small_volume / "kept"
    kept.write_bytes(b"1" * (40 << 10))
    full = changed(settings, storage_url=small_volume.as_uri())
    assert look(full) == {}
    with contextlib.suppress(OSError), (small_volume / "more").open("wb", buffering=0) as file:
        while True:
            file.write(b"2" * 4096)
    assert "is full: make it larger" in look(full)["storage"]
    assert readiness(full)[0] == 503
    assert kept.read_bytes() == b"1" * (40 << 10)
    (small_volume / "more").unlink()
    assert look(full) == {}


def test_a_directory_that_cannot_be_is_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = look(changed(settings, storage_url=(tmp_path / "file" / "runs").as_uri()))
    assert found["storage"].startswith(f"cannot write to file://{tmp_path}/file/runs: ")


def test_processes_with_different_volumes_under_one_name_are_told(
    settings: Settings, tmp_path: Path
) -> None:
    class OfANode(StorageProbe):
        """The volume that a node mounts under the name that all have in their settings."""

        def __init__(self, node: str) -> None:
            super().__init__(open_storage((tmp_path / node).as_uri()), settings.storage_url)

    redis = connect(settings)
    first = Checks(redis, settings, OfANode("a"))
    same = Checks(redis, settings, OfANode("a"))
    other = Checks(redis, settings, OfANode("b"))
    assert not [one for one in first.run() + same.run() if one.problem]
    (found,) = [one for one in other.run() if one.problem]
    assert found.part == "shared storage"
    assert "ReadWriteMany" in found.problem
    assert first.name in found.problem or same.name in found.problem
    other.leave()
    assert Finding("shared storage") in first.run()


# -- who says it --------------------------------------------------------------------------------


def test_the_doctor_says_of_each_part_how_it_is_and_what_to_change(
    settings: Settings, store: JobStore, doctor: Doctor
) -> None:
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=300)
    code, said = doctor(settings)
    assert code == 1
    assert "bad  workers: no worker is running" in said
    registry.renew("w", pool="default", host="h")
    code, said = doctor(settings)
    assert (code, said.splitlines()[-1]) == (0, "No problems found.")
    assert {line for line in said.splitlines() if line.startswith("ok")} >= {
        "ok   redis", "ok   clock", "ok   storage", "ok   storage's clock", "ok   shared storage",
        "ok   scratch disk", "ok   records", "ok   worker w",
    }  # fmt: skip
    registry.renew("w", pool="default", host="h", unhealthy="Xid 79")
    open_storage(settings.storage_url).append("a-23456789/job.json", 0, b"{}")
    settings.scratch_dir.rmdir()
    settings.scratch_dir.write_text("no directory")
    code, said = doctor(settings)
    assert code == 1
    assert "bad  worker w: Xid 79" in said
    assert "bad  records: Redis has no record of any job, but storage holds 1 runs" in said
    assert "bad  scratch disk: cannot write" in said
    assert not list((Path(settings.storage_url.removeprefix("file://")) / ".spectrain").iterdir())


def test_a_worker_on_another_volume_takes_no_job_and_says_why(
    settings: Settings, store: JobStore, tmp_path: Path, wait_until: Wait
) -> None:
    probe = StorageProbe(open_storage(settings.storage_url), settings.storage_url)
    Checks(connect(settings), settings, probe).run()  # of an API
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    registry = WorkerRegistry(
        store.redis, prefix=store.prefix, lease_seconds=settings.lease_seconds
    )
    job = store.submit(JobSpec(name="a", command=["true"]))
    messenger = Messenger(settings, store)
    messenger.flush(store.now())
    messenger.close()
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            python_module("worker"),
            env={
                **os.environ,
                "SPECTRAIN_REDIS_URL": settings.redis_url,
                "SPECTRAIN_STORAGE_URL": elsewhere.as_uri(),
                "SPECTRAIN_SCRATCH_DIR": str(settings.scratch_dir),
                "SPECTRAIN_LEASE_SECONDS": "3",
                "SPECTRAIN_DEVICE": "cpu",
                "SPECTRAIN_WARM_START": "0",
            },
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        found = wait_until(registry.workers, what="the worker")[0]
        assert found.state is WorkerState.UNHEALTHY
        assert "different volumes" in found.reason
        assert store.get(job.id).attempt == 0
        # Now it is the same volume.
        real = Path(settings.storage_url.removeprefix("file://"))
        for path in (real / ".spectrain").iterdir():
            (elsewhere / ".spectrain" / path.name).write_bytes(path.read_bytes())
        wait_until(lambda: store.get(job.id).state is State.SUCCEEDED, what="its job")
    finally:
        worker.terminate()
        worker.wait(60)
    assert store.redis.zcard(store.keys.probes) == 1, "it took its own away"
