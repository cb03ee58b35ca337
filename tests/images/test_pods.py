"""The chart's pods, each container exactly as rendered, in Docker: `make image-check`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from api.client.client import Client
from jobs.model.states import Reason, State
from tests.images.pods import Node, Pod, node
from tests.images.stack import API, WORKER, build, docker
from tests.kubernetes_api import KubernetesServer
from tests.unit.helm.chart import Object, Values, kinds, one, rendered, worker

pytestmark = [pytest.mark.images, pytest.mark.timeout(1200)]
Wait = Callable[..., Any]

VALUES: Values = {
    "images": {
        part: dict(zip(("repository", "tag"), image.split(":"), strict=True))
        for part, image in (("api", API), ("worker", WORKER))
    },
    "settings": {"leaseSeconds": 5},
    # The job of `helm test` needs little.
    "workers": {"defaults": {"resources": {"limits": {"memory": "2Gi"}}, "graceSeconds": 30}},
}
LONG = {
    "name": "long",
    "train": {
        "model": {"type": "wave", "d_model": 32, "num_layers": 1, "num_heads": 2, "block_size": 16},
        "steps": 100_000,
        "batch_size": 2,
        "sample_tokens": 0,
    },
}


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    build()
    return rendered(VALUES)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(f"spectrain-pods-{os.getpid()}", tmp_path_factory.mktemp("pods")) as made:
        yield made


@pytest.fixture(scope="module")
def kubernetes(here: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    server = KubernetesServer(tmp_path_factory.mktemp("kubernetes"), here.gateway)
    here.credentials, here.environment = server.credentials, server.environment
    for path in (server.credentials, *server.credentials.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def secrets(objects: list[Object], here: Node, kubernetes: KubernetesServer) -> list[str]:
    """What two runs of the Job printed, after which its Secrets are on the node."""
    (job,) = kinds(objects, "Job")
    printed = []
    for _ in range(2):
        pod = here.start(job)
        assert pod.wait() == 0, pod.logs
        printed.append(pod.logs)
    for found in kubernetes.objects.values():
        here.keep_secret(found)
    return printed


@pytest.fixture(scope="module")
def redis(objects: list[Object], here: Node, secrets: list[str], wait_until: Wait) -> Pod:
    del secrets
    found = one(objects, "ConfigMap", "-redis")
    here.config_maps[found["metadata"]["name"]] = found["data"]
    pod = here.start(one(objects, "StatefulSet", "-redis"), services=("prod-spectrain-redis",))
    wait_until(lambda: pod.passes("readinessProbe"), what="Redis", seconds=60)
    return pod


@pytest.fixture(scope="module")
def api(objects: list[Object], here: Node, redis: Pod, wait_until: Wait) -> Pod:
    del redis
    pod = here.start(one(objects, "Deployment", "-api"), services=("prod-spectrain-api",))
    wait_until(lambda: pod.passes("readinessProbe"), what="the API", seconds=120)
    return pod


@pytest.fixture(scope="module")
def client(api: Pod, here: Node) -> Iterator[Client]:
    token = here.secrets["prod-spectrain-tokens"]["client-token"]
    with Client(f"http://{api.address}:8080", token) as client:
        yield client


@pytest.fixture(scope="module")
def a_worker(objects: list[Object], here: Node, client: Client, wait_until: Wait) -> Pod:
    pod = here.start(worker(objects))
    wait_until(client.workers, what="the worker", seconds=120)
    return pod


def test_the_job_makes_the_secrets_and_changes_none_later(secrets: list[str]) -> None:
    first, second = secrets
    assert first.count(": made") == 2
    assert second.count(": kept") == 2


def test_redis_keeps_to_its_volume_and_answers_nobody_without_the_password(redis: Pod) -> None:
    assert all(redis.passes(probe) for probe in ("startupProbe", "livenessProbe"))
    assert redis.exec("sh", "-c", "REDISCLI_AUTH= redis-cli ping").startswith("NOAUTH")
    assert "appendonlydir" in redis.exec("ls", "/data")


def test_the_api_passes_its_probes_and_finds_nothing_to_change(api: Pod, a_worker: Pod) -> None:
    del a_worker
    assert all(api.passes(probe) for probe in ("startupProbe", "livenessProbe", "readinessProbe"))
    assert api.exec("spectrain", "doctor").splitlines()[-1] == "No problems found."


def test_the_pod_of_helm_test_ends_well(objects: list[Object], here: Node, a_worker: Pod) -> None:
    pod = here.start(one(objects, "Pod", "-test"))
    assert pod.wait() == 0, f"{pod.logs}\n{a_worker.logs}"


def test_a_worker_that_is_asked_to_stop_gives_its_job_back_in_time(
    client: Client, a_worker: Pod, objects: list[Object], here: Node, wait_until: Wait
) -> None:
    job = client.submit(LONG)

    def trains() -> bool:
        now = client.get(job.id)
        assert not now.state.is_final, now.message
        return now.progress is not None and (now.progress.step or 0) > 0

    wait_until(trains, what="a step", seconds=120)
    assert a_worker.stop() == 0, a_worker.logs
    stopped = client.get(job.id)
    assert (stopped.state, stopped.attempts[0].reason) == (State.QUEUED, Reason.PREEMPTED)
    here.start(worker(objects))
    wait_until(lambda: client.get(job.id).state is State.RUNNING, what="another", seconds=120)
    client.cancel(job.id)
    wait_until(lambda: client.get(job.id).state is State.CANCELLED, what="its end", seconds=60)


_ASKS = """
import ssl, sys, urllib.request, urllib.error
try:
    urllib.request.urlopen(sys.argv[1])
except urllib.error.HTTPError as error:
    print(error.code)
"""


def test_a_pod_trusts_an_authority_of_your_own(
    here: Node, kubernetes: KubernetesServer, redis: Pod, wait_until: Wait
) -> None:
    del redis
    authority = (kubernetes.credentials / "ca.crt").read_text()
    here.config_maps["company"] = {"ca.crt": authority}
    values = {**VALUES, "global": {"caBundle": {"configMap": "company"}}}
    pod = here.start(one(rendered(values), "Deployment", "-api"))
    wait_until(lambda: pod.passes("livenessProbe"), what="the API", seconds=120)
    port = kubernetes.environment["KUBERNETES_SERVICE_PORT"]
    url = f"https://{kubernetes.address}:{port}/"
    assert pod.exec("python", "-c", _ASKS, url) == "401\n", "the certificate was accepted"
    count = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    assert int(pod.exec("python", "-c", count)) > 1, "beside the public ones"
    assert pod.stop() == 0


def test_with_two_families_the_api_listens_on_both(
    here: Node, redis: Pod, wait_until: Wait
) -> None:
    del redis
    values = {**VALUES, "network": {"ipFamilyPolicy": "PreferDualStack"}}
    pod = here.start(one(rendered(values), "Deployment", "-api"))
    wait_until(lambda: pod.passes("livenessProbe"), what="IPv4", seconds=60)
    asks = "import urllib.request as u; print(u.urlopen('http://[::1]:8080/healthz').status)"
    assert pod.exec("python", "-c", asks) == "200\n"


def test_valkey_takes_the_place_of_redis(here: Node, secrets: list[str], wait_until: Wait) -> None:
    del secrets
    image = {"repository": "valkey/valkey", "tag": "9.0.4"}
    storage = {"existingClaim": "of-valkey"}  # neither reads the other's files
    objects = rendered({**VALUES, "redis": {"image": image, "storage": storage}})
    found = one(objects, "ConfigMap", "-redis")
    here.config_maps[found["metadata"]["name"]] = found["data"]
    pod = here.start(one(objects, "StatefulSet", "-redis"))
    wait_until(lambda: pod.passes("readinessProbe"), what="Valkey", seconds=60)
    assert all(pod.passes(probe) for probe in ("startupProbe", "livenessProbe"))
    assert "valkey" in pod.exec("valkey-cli", "info", "server").lower()
    assert pod.exec("valkey-cli", "config", "get", "appendfsync").split() == [
        "appendfsync",
        "always",
    ]


def test_nothing_of_a_secret_is_in_a_log(here: Node, api: Pod, redis: Pod, a_worker: Pod) -> None:
    logs = json.dumps([pod.logs for pod in (api, redis, a_worker)])
    for data in here.secrets.values():
        assert not any(value in logs for value in data.values())


def test_every_container_ran_as_the_chart_says(here: Node, api: Pod, redis: Pod) -> None:
    for pod, user in ((api, "10001"), (redis, "999")):
        assert pod.exec("id", "-u").strip() == user
        assert docker("exec", pod.container, "touch", "/x", check=False).returncode != 0
        host = json.loads(docker("inspect", pod.container).stdout)[0]["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
