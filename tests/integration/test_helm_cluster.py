"""The chart against what is outside of it: a cluster that remembers, and a Redis server."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import helm_python
import pytest
from redis import AuthenticationError, Redis

from api.local.redis_server import find_redis_server, free_port
from tests.unit.helm.chart import (
    Object,
    Values,
    chart,
    container,
    example,
    kinds,
    made_secrets,
    objects_of,
    one,
    rendered,
    worker,
)

WORKER = "prod-spectrain-worker-default"

Wait = Callable[..., Any]


class Cluster:
    """An API server on loopback that knows the objects it was given, and nothing else."""

    def __init__(self) -> None:
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = cluster.get(self.path.split("?")[0])
                body = json.dumps(found or {"kind": "Status", "status": "Failure", "code": 404,
                                            "reason": "NotFound"}).encode()  # fmt: skip
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.objects: dict[str, Object] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05])
        self._thread.start()
        self._config = helm_python.Config(
            kube_apiserver=f"http://127.0.0.1:{self._server.server_port}",
            kubeconfig_content="apiVersion: v1\nkind: Config\n",
            storage_driver="memory",
        )

    def get(self, path: str) -> Object | None:
        groups = {
            "/api/v1": ("v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
            "/apis/apps/v1": ("apps/v1", "deployments", "Deployment"),
        }
        if path in groups:
            version, name, kind = groups[path]
            resource = {"name": name, "kind": kind, "namespaced": True, "verbs": ["get"]}
            return {"kind": "APIResourceList", "groupVersion": version, "resources": [resource]}
        return self.objects.get(path)

    def keep(self, objects: list[Object]) -> None:
        """Creates or replaces Deployments and claims."""
        for found in objects:
            if found["kind"] in {"Deployment", "PersistentVolumeClaim"}:
                root = "/api/v1" if found["kind"] == "PersistentVolumeClaim" else "/apis/apps/v1"
                plural = f"{found['kind'].lower()}s"
                path = f"{root}/namespaces/ml/{plural}/{found['metadata']['name']}"
                self.objects[path] = found

    def files(self, values: Values | None = None) -> dict[str, str]:
        """What an installation or upgrade in this cluster would send."""
        text = self._config.render(chart(), values or {}, name="prod", namespace="ml")
        return {path.split("/templates/")[1]: part for path, part in text.items()}

    def close(self) -> None:
        self._config.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


def test_secrets_of_your_own_are_named_and_none_is_generated(cluster: Cluster) -> None:
    values = {"tokens": {"existingSecret": "mine"}, "redis": {"existingSecret": "mine-too"}}
    objects = objects_of(cluster.files(values))
    assert not made_secrets(objects)
    assert kinds(objects, "Job") == []
    assert "name: mine-too" in cluster.files(values)["workers.yaml"].replace('"', "")
    assert "get secret mine" in cluster.files(values)["NOTES.txt"]


def pool(**values: Any) -> Values:
    return {"workers": {"pools": [{"name": "default", **values}]}}


SCALED = {"autoscaling": {"enabled": True, "maxReplicas": 20}}


def test_turning_autoscaling_on_keeps_the_size_of_the_pool(cluster: Cluster) -> None:
    """An upgrade that removes `replicas` sets it to 1, and would preempt seven jobs."""
    cluster.keep(objects_of(cluster.files(pool(replicas=8))))
    for size in (8, 13):  # what KEDA makes of it afterwards is kept by each further upgrade
        there = cluster.objects["/apis/apps/v1/namespaces/ml/deployments/" + WORKER]
        there["spec"]["replicas"] = size
        found = worker(objects_of(cluster.files(pool(replicas=2, **SCALED))))
        assert found["spec"]["replicas"] == size
        cluster.keep([found])
    found = worker(objects_of(cluster.files(pool(replicas=2))))
    assert found["spec"]["replicas"] == 2, "turned off again"


def test_a_pool_that_was_autoscaled_from_the_start_never_says_its_size(cluster: Cluster) -> None:
    for _ in range(2):
        found = worker(objects_of(cluster.files(pool(**SCALED))))
        assert "replicas" not in found["spec"], "a rollback would return to an old size"
        cluster.keep([{**found, "spec": {**found["spec"], "replicas": 5}}])


def claim(mode: str) -> Object:
    meta = {"name": "runs", "namespace": "ml"}
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta}
    return {**kind, "spec": {"accessModes": [mode]}}


def test_the_notes_warn_of_an_existing_claim_that_cannot_be_shared(cluster: Cluster) -> None:
    values = {"storage": {"type": "existingClaim", "existingClaim": {"name": "runs"}}}
    assert "could not be looked up" in cluster.files(values)["NOTES.txt"]
    cluster.keep([claim("ReadWriteOnce")])
    assert "WARNING: the claim runs is ReadWriteOnce" in cluster.files(values)["NOTES.txt"]
    cluster.keep([claim("ReadWriteMany")])
    assert "claim runs is" not in cluster.files(values)["NOTES.txt"]
    assert "looked up" not in cluster.files(values)["NOTES.txt"]


def test_redis_starts_with_the_charts_command_and_keeps_what_was_answered(
    tmp_path: Path, wait_until: Wait
) -> None:
    objects = rendered()
    config, port = tmp_path / "redis.conf", free_port()
    text = one(objects, "ConfigMap", "-redis")["data"]["redis.conf"]
    text = text.replace("dir /data", f'dir "{tmp_path}"')
    config.write_text(f"{text}\nport {port}\nbind 127.0.0.1\n")
    shell, flag, script = container(one(objects, "StatefulSet", "-redis"))["command"]
    script = script.replace("/etc/redis/redis.conf", str(config))
    secret = secrets.token_urlsafe(32)
    path = f"{Path(find_redis_server()).parent}{os.pathsep}{os.environ['PATH']}"
    log = tmp_path / "log"

    for attempt in range(2):
        with log.open("ab") as output:
            process = subprocess.Popen(
                [shell, flag, script],
                env={"PATH": path, "REDISCLI_AUTH": secret},
                stdout=output,
                stderr=output,
            )
        try:
            with Redis(port=port, password=secret, decode_responses=True) as redis:
                wait_until(lambda: "Ready to accept" in log.read_text().split("ready-mark")[-1],
                           what="Redis")  # fmt: skip
                if attempt == 0:
                    redis.set("kept", "yes")
                assert redis.get("kept") == "yes"
                wanted = dict(re.findall(r"^(appendfsync|maxmemory-policy) (.*)$", text, re.M))
                assert {k: redis.config_get(k)[k] for k in wanted} == wanted
            with Redis(port=port) as stranger, pytest.raises(AuthenticationError):
                stranger.ping()
            command_line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            assert b"redis-server" in command_line, "the shell is gone: SIGTERM reaches Redis"
            assert secret.encode() not in command_line
        finally:
            process.kill()  # not asked to save: what was answered is on disk
            process.wait()
        with log.open("a") as output:
            output.write("ready-mark\n")


def test_the_external_example_installs_no_redis_and_no_secret(cluster: Cluster) -> None:
    objects = objects_of(cluster.files(example("external")))
    assert not {"StatefulSet", "Job", "PersistentVolumeClaim"} & {o["kind"] for o in objects}
