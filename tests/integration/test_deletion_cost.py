"""What a worker says on its pod, to a server that answers as the Kubernetes API does to PATCH."""

from __future__ import annotations

import datetime
import ipaddress
import json
import logging
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from jobs.messages import Messenger
from jobs.model.spec import JobSpec
from jobs.model.states import State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from worker.cluster.deletion_cost import (
    ANNOTATION,
    BUSY,
    IDLE,
    NoDeletionCost,
    PodDeletionCost,
    pod_deletion_cost,
)

Wait = Callable[..., Any]
PODS = "/api/v1/namespaces/ml/pods/"


class KubernetesApi:
    """Pods on loopback, over TLS by an authority of its own.

    `refuses` is the status of every answer until it is None again.
    """

    def __init__(self, directory: Path) -> None:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_PATCH(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = api.patch(self.path, dict(self.headers), body)
                answer = json.dumps({"kind": "Pod" if status == 200 else "Status"}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.credentials = directory / "credentials"
        self.credentials.mkdir()
        self.token("first")
        certificate, key = self._certificate(directory)
        (self.credentials / "ca.crt").write_bytes(certificate.read_bytes())
        self.annotations: dict[str, str] = {"kubectl.kubernetes.io/default-container": "worker"}
        self.calls: list[int] = []
        self.costs: list[str] = []
        self.refuses: int | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05])
        self._thread.start()

    def token(self, text: str) -> None:
        self._token = text
        (self.credentials / "token").write_text(text + "\n")

    @property
    def environment(self) -> dict[str, str]:
        return {
            "POD_NAMESPACE": "ml",
            "POD_NAME": "worker-1",
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self._server.server_port),
        }

    def patch(self, path: str, headers: dict[str, str], body: bytes) -> int:
        status = self.refuses or self._patch(path, headers, body)
        self.calls.append(status)
        return status

    def _patch(self, path: str, headers: dict[str, str], body: bytes) -> int:
        if headers.get("Authorization") != f"Bearer {self._token}":
            return 401
        if path != PODS + "worker-1":
            return 404
        if headers["Content-Type"] != "application/merge-patch+json":
            return 415
        change = json.loads(body)
        assert change.keys() == {"metadata"}
        assert change["metadata"].keys() == {"annotations"}
        values = change["metadata"]["annotations"].values()
        if not all(isinstance(value, str) for value in values):
            return 400
        self.annotations.update(change["metadata"]["annotations"])
        self.costs.append(self.annotations[ANNOTATION])
        return 200

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @staticmethod
    def _certificate(directory: Path) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        private = serialization.PrivateFormat.PKCS8
        (directory / "tls.crt").write_bytes(certificate.public_bytes(pem))
        (directory / "tls.key").write_bytes(
            key.private_bytes(pem, private, serialization.NoEncryption())
        )
        return directory / "tls.crt", directory / "tls.key"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesApi]:
    api = KubernetesApi(tmp_path)
    yield api
    api.close()


@pytest.fixture
def cost(api: KubernetesApi) -> Iterator[PodDeletionCost]:
    port = api.environment["KUBERNETES_SERVICE_PORT"]
    cost = PodDeletionCost(
        f"https://127.0.0.1:{port}{PODS}worker-1", api.credentials, retry_seconds=0.05
    )
    yield cost
    cost.stop()


def test_a_busy_worker_costs_more_than_an_idle_one_and_no_other_annotation_changes(
    api: KubernetesApi, cost: PodDeletionCost, wait_until: Wait
) -> None:
    cost.start()
    wait_until(lambda: api.costs == [str(IDLE)], what="the first cost")
    cost.set(BUSY)
    wait_until(lambda: api.costs[1:] == [str(BUSY)], what="the job's")
    assert int(api.annotations[ANNOTATION]) > IDLE
    assert api.annotations["kubectl.kubernetes.io/default-container"] == "worker"
    cost.set(IDLE)
    wait_until(lambda: api.costs[2:] == [str(IDLE)], what="the job's end")


def test_a_container_that_was_started_again_does_not_stay_as_dear_as_it_was(
    api: KubernetesApi, cost: PodDeletionCost, wait_until: Wait
) -> None:
    api.annotations[ANNOTATION] = str(BUSY)
    cost.start()
    wait_until(lambda: api.annotations[ANNOTATION] == str(IDLE), what="the cost of an idle worker")


def test_what_is_said_twice_is_one_call(
    api: KubernetesApi, cost: PodDeletionCost, wait_until: Wait
) -> None:
    cost.start()
    wait_until(lambda: api.costs, what="the first cost")
    for _ in range(10):
        cost.set(IDLE)
    cost.set(BUSY)
    wait_until(lambda: api.costs[-1] == str(BUSY), what="the job's")
    assert api.calls == [200, 200]


def test_an_api_that_is_away_is_told_once_and_has_the_last_word_when_it_is_back(
    api: KubernetesApi,
    cost: PodDeletionCost,
    wait_until: Wait,
    caplog: pytest.LogCaptureFixture,
) -> None:
    api.refuses = 503
    with caplog.at_level(logging.INFO, logger="worker.cluster.deletion_cost"):
        cost.start()
        wait_until(lambda: len(api.calls) > 2, what="several tries")
        cost.set(BUSY)
        api.refuses = None
        wait_until(lambda: api.annotations.get(ANNOTATION) == str(BUSY), what="the last cost")
        wait_until(lambda: "is set again" in caplog.text, what="the end of it in the log")
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1


def test_a_right_that_is_missing_is_told_with_what_to_change(
    api: KubernetesApi,
    cost: PodDeletionCost,
    wait_until: Wait,
    caplog: pytest.LogCaptureFixture,
) -> None:
    api.refuses = 403
    cost.start()
    wait_until(lambda: "workers.deletionCost" in caplog.text, what="the warning")


def test_a_token_that_kubernetes_renewed_is_read_anew(
    api: KubernetesApi, cost: PodDeletionCost, wait_until: Wait
) -> None:
    cost.start()
    wait_until(lambda: api.costs, what="the first cost")
    api.token("second")
    cost.set(BUSY)
    wait_until(lambda: api.costs[-1] == str(BUSY), what="the job's")
    assert 401 not in api.calls


def test_a_server_that_another_authority_vouches_for_gets_no_token(
    api: KubernetesApi,
    cost: PodDeletionCost,
    wait_until: Wait,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "other").mkdir()
    other = KubernetesApi(tmp_path / "other")
    other.close()
    (api.credentials / "ca.crt").write_bytes((other.credentials / "ca.crt").read_bytes())
    cost.start()
    wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text, what="the warning")
    assert api.calls == []


@pytest.mark.parametrize("missing", ["POD_NAME", "POD_NAMESPACE", "KUBERNETES_SERVICE_HOST"])
def test_outside_of_a_pod_nothing_is_told(api: KubernetesApi, missing: str) -> None:
    environment = {k: v for k, v in api.environment.items() if k != missing}
    assert isinstance(pod_deletion_cost(environment, api.credentials), NoDeletionCost)


def test_a_pod_without_a_token_tells_nothing(api: KubernetesApi, tmp_path: Path) -> None:
    assert isinstance(pod_deletion_cost(api.environment, tmp_path), NoDeletionCost)
    assert isinstance(pod_deletion_cost(api.environment, api.credentials), PodDeletionCost)


_WORKER = (
    "import pathlib, sys; import worker.cluster.deletion_cost as cost;"
    "cost.CREDENTIALS = pathlib.Path(sys.argv.pop()); from worker.app import main; main()"
)


def test_a_worker_that_runs_a_job_is_the_last_to_go(
    settings: Settings, store: JobStore, api: KubernetesApi, tmp_path: Path, wait_until: Wait
) -> None:
    gate = tmp_path / "gate"
    waiting = f"until test -e {gate}; do sleep 0.05; done"
    job = store.submit(JobSpec(name="nap", command=["sh", "-c", waiting]))
    process = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(api.credentials)],
        env={
            **os.environ,
            **api.environment,
            "SPECTRAIN_REDIS_URL": settings.redis_url,
            "SPECTRAIN_STORAGE_URL": settings.storage_url,
            "SPECTRAIN_SCRATCH_DIR": str(settings.scratch_dir),
            "SPECTRAIN_DEVICE": "cpu",
            "SPECTRAIN_WARM_START": "0",
        },
    )
    try:
        Messenger(settings, store).announce("default", job.id)
        wait_until(
            lambda: api.annotations.get(ANNOTATION) == str(BUSY), what="the job's", seconds=90
        )
        gate.touch()
        wait_until(lambda: store.get(job.id).state is State.SUCCEEDED, what="its end")
        wait_until(lambda: api.annotations[ANNOTATION] == str(IDLE), what="an idle worker's cost")
    finally:
        process.kill()
        process.wait()
