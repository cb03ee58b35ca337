"""Odd but legal values give objects that a server takes, which schemas alone do not show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.unit.helm.chart import (
    VERSIONS,
    Object,
    Values,
    container,
    environment,
    kinds,
    notes,
    objects_of,
    one,
    pod_of,
    rendered,
    rendered_files,
    violations,
    with_pods,
    worker,
)

IMAGE = {"image": "proxy:1"}
# As for RFC 1035, which the names of Services have to meet.
_SERVICE = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"|[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class UniqueKeys(yaml.CSafeLoader):
    """A loader that refuses a key that is there twice, as a server does."""


def _mapping(loader: UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]  # type: ignore[no-untyped-call]
    assert len(set(keys)) == len(keys), f"{node.start_mark}: {keys}"
    return {
        key: loader.construct_object(value, deep=True)  # type: ignore[no-untyped-call]
        for key, (_, value) in zip(keys, node.value, strict=True)
    }


UniqueKeys.add_constructor("tag:yaml.org,2002:map", _mapping)


def refused(objects: list[Object]) -> Iterator[str]:
    """What a server refuses beside what its schemas say."""
    seen = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects]
    yield from (f"two of {one}" for one in set(seen) if seen.count(one) > 1)
    for found in objects:
        metadata = found["metadata"]
        where = f"{found['kind']} {metadata['name']}"
        if not isinstance(metadata["name"], str):
            yield f"{where}: its name is no text"
        if found["kind"] == "Service" and not _SERVICE.fullmatch(metadata["name"]):
            yield f"{where}: no name of a Service"
        for name, value in metadata.get("labels", {}).items():
            if not _LABEL.fullmatch(value):
                yield f"{where}: label {name}={value}"
    for found in with_pods(objects):
        yield from (f"{found['metadata']['name']}: {one}" for one in _refused_pod(found))


def _refused_pod(found: Object) -> Iterator[str]:
    pod = pod_of(found)
    if found["kind"] != "Pod" and (selector := found["spec"].get("selector")):
        labels = found["spec"]["template"]["metadata"]["labels"]
        if not selector["matchLabels"].items() <= labels.items():
            yield "its selector does not match its pods"
    each = [*pod.get("initContainers", []), *pod["containers"]]
    yield from twice("containers", [one["name"] for one in each])
    volumes = [volume["name"] for volume in pod.get("volumes", [])]
    yield from twice("volumes", volumes)
    yield from twice("claims", [claim["name"] for claim in pod.get("resourceClaims", [])])
    for one_of in each:
        mounts = one_of.get("volumeMounts", [])
        yield from twice("mounts", [mount["mountPath"] for mount in mounts])
        yield from twice("variables", [env["name"] for env in one_of.get("env", [])])
        yield from (f"no volume {m['name']}" for m in mounts if m["name"] not in volumes)
        resources = one_of.get("resources") or {}
        limits = resources.get("limits") or {}
        for name, amount in (resources.get("requests") or {}).items():
            if name in limits and in_bytes(amount) > in_bytes(limits[name]):
                yield f"it requests more {name} than its limit"


def twice(what: str, names: list[str]) -> Iterator[str]:
    yield from (f"{what}: {name} is there twice" for name in set(names) if names.count(name) > 1)


def in_bytes(quantity: object) -> float:
    """A quantity of Kubernetes, as its documentation says."""
    units = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
    units |= {f"{unit}i": 1024.0**n for n, unit in enumerate("KMGTPE", start=1)}
    match = re.fullmatch(r"([0-9.]+)(?:[eE]([+-]?[0-9]+)|([A-Za-z]*))", str(quantity))
    assert match is not None, quantity
    return float(match[1]) * (10.0 ** int(match[2]) if match[2] else units[match[3] or ""])


def pools(**values: Any) -> Values:
    return {"workers": {"pools": [{"name": "default", **values}]}}


SIDECARS = [{"name": "log", **IMAGE, "ports": [{"name": "http", "containerPort": 8080}]}]
MANY = {"workers": {"pools": [{"name": f"{'p' * 34}-{n:05}"} for n in range(30)]}}
EXTERNAL = {"redis": {"enabled": False, "external": {"existingSecret": "redis"}}}
ODD: dict[str, tuple[Values, str]] = {
    "a release of 53 characters": ({}, "r" * 53),
    "a release with dots": ({}, "team.a.prod"),
    "a release that begins with a digit": ({}, "7b"),
    "a release of 53 characters with dots": (
        {"monitoring": {"prometheusRule": {"enabled": True}}}, f"9.{'x' * 40}.{'y' * 10}",
    ),
    "a name that is a number": (
        {"fullnameOverride": "123", "monitoring": {"prometheusRule": {"enabled": True},
         "dashboard": {"enabled": True}}}, "prod",
    ),
    "a name that is a number with an exponent": ({"fullnameOverride": "1e3"}, "prod"),
    "many pools with long names": (MANY, "r" * 53),
    "annotations of the chart's names": (
        {"api": {"podAnnotations": {"kubectl.kubernetes.io/default-container": "log"},
                 "service": {"annotations": {"a": "b"}}, "sidecars": [{"name": "log", **IMAGE}]},
         "storage": {"newClaim": {"annotations": {"helm.sh/resource-policy": "delete"}}},
         "workers": {"defaults": {"podAnnotations":
                                  {"kubectl.kubernetes.io/default-container": "worker"}}}}, "prod",
    ),
    "labels of the chart's names": (
        {"monitoring": {
            "serviceMonitor": {"enabled": True, "labels": {"app.kubernetes.io/name": "mine"}},
            "prometheusRule": {"enabled": True, "labels": {"app.kubernetes.io/instance": "p"}},
            "dashboard": {"enabled": True, "label": "app.kubernetes.io/name",
                          "labelValue": "dashboard"}}}, "prod",
    ),
    "volumes of the chart's names": (
        {**pools(extraVolumes=[{"name": name, "emptyDir": {}} for name in
                               ("scratch", "tmp", "trust", "shared-memory", "storage", "own")],
                 extraVolumeMounts=[{"name": "own", "mountPath": "/scratch"}]),
         "api": {"extraVolumes": [{"name": "tmp", "emptyDir": {}}],
                 "extraVolumeMounts": [{"name": "tmp", "mountPath": "/tmp/"}]},
         "global": {"caBundle": {"configMap": "ca"}}}, "prod",
    ),
    "sidecars with the same port": ({"api": {"sidecars": SIDECARS}, **pools(sidecars=SIDECARS)},
                                    "prod"),
    "a limit of the disk, and no request": (
        pools(resources={"limits": {"ephemeral-storage": "10Gi"}}), "prod",
    ),
    "resources without anything": (pools(resources={}), "prod"),
    "resources as numbers": (
        pools(resources={"requests": {"cpu": 1, "memory": 1.5e9}, "limits": {"memory": 2e9}}),
        "prod",
    ),
    "sizes as powers of ten": (
        pools(scratch={"sizeLimit": "5e9", "tmpSizeLimit": "0.5G"}, sharedMemory="1E9"), "prod",
    ),
    "sizes with fractions": (
        pools(scratch={"sizeLimit": "1.5Ti", "tmpSizeLimit": "500000000000m"}), "prod",
    ),
    "a slice of a GPU": (pools(gpus=2, gpuResource="nvidia.com/mig-1g.10gb"), "prod"),
    "GPUs of AMD by claims": (
        pools(gpus=1, gpuResource="", resourceClaims=[{"name": "gpu", "resourceClaimName": "x"}]),
        "prod",
    ),
    "IPv6 alone": (
        {"network": {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]},
         "networkPolicy": {"apiFrom": [{"ipBlock": {"cidr": "fd00::/8"}}],
                           "dnsTo": [{"ipBlock": {"cidr": "fd00:10::10/128"}}]},
         "accounts": {"trustedProxies": ["fd00:1::/64"]}}, "prod",
    ),
    "secrets of others everywhere": (
        {"tokens": {"existingSecret": "t", "fileKey": ""}, "redis": {"existingSecret": "r"},
         "webhooks": {"existingSecret": "w"}, "storage": {"type": "s3", "s3": {
             "bucket": "b-1", "existingSecret": "s", "sessionTokenKey": "session"}}}, "prod",
    ),
    "an authority of one's own, and one for the store": (
        {"global": {"caBundle": {"secret": "ca", "key": "tls.crt"}},
         "storage": {"type": "s3", "s3": {"bucket": "b-1", "caBundle": {"configMap": "ca"}}}},
        "prod",
    ),
    "one pool with autoscaling and one without workers": (
        {"workers": {"pools": [{"name": "a", "autoscaling": {"enabled": True, "minReplicas": 0}},
                               {"name": "b", "replicas": 0}]},
         "serviceAccounts": {"worker": {"create": False, "name": "mine"}}}, "prod",
    ),
    "all workers may be away": (pools(podDisruptionBudget={"maxUnavailable": "100%"}), "prod"),
    "tests on nodes of their own": (
        {"test": {"nodeSelector": {"kubernetes.io/arch": "arm64"}, "resources": {},
                  "tolerations": [{"operator": "Exists"}]}}, "prod",
    ),
    "a proxy, and a store of the cluster by its short name": (
        {"global": {"proxy": {"https": "http://proxy:3128"}}, **EXTERNAL,
         "storage": {"type": "s3", "s3": {"bucket": "b-1", "endpointUrl": "http://minio:9000"}}},
        "prod",
    ),
    "OpenShift": ({"security": {"runAsUser": None, "fsGroup": None}}, "prod"),
    "the same variables from several places": (
        {"workers": {"secrets": {"HF_TOKEN": {"secret": "hf", "key": "token"}}, "pools": [
            {"name": "default", "envFrom": [{"secretRef": {"name": "more"}}], "extraEnv": [
                {"name": "SPECTRAIN_SECRET_HF_TOKEN", "value": "x"},
                {"name": "HOME", "value": "/home"}, {"name": "SPECTRAIN_JOB_ENV", "value": "A"}],
             "jobEnv": ["WANDB_*"], "runBytes": "10Gi"}]}, "settings": {"umask": "007"}}, "prod",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("values", "name"), ODD.values(), ids=list(ODD))
def test_a_server_takes_what_comes_out(values: Values, name: str) -> None:
    files = rendered_files(values, name=name)
    for path, text in files.items():
        if path.endswith(".yaml"):
            list(yaml.load_all(text, UniqueKeys))
    objects = objects_of(files)
    assert list(refused(objects)) == []
    assert list(violations(objects, VERSIONS[-1])) == []


def mounted(found: Object) -> dict[str, str]:
    """The volume at each path."""
    return {m["mountPath"].rstrip("/"): m["name"] for m in container(found)["volumeMounts"]}


def test_volumes_of_the_user_replace_those_of_the_chart() -> None:
    objects = rendered(ODD["volumes of the chart's names"][0])
    found = worker(objects)
    assert mounted(found)["/scratch"] == "own"
    assert mounted(found)["/tmp"] == "tmp"
    assert {"name": "scratch", "emptyDir": {}} in pod_of(found)["volumes"]
    assert "/etc/spectrain/trust" in mounted(found), "what is not replaced stays"
    assert mounted(one(objects, "Deployment", "-api"))["/tmp"] == "tmp"


def test_annotations_and_labels_of_the_user_replace_those_of_the_chart() -> None:
    objects = rendered(ODD["annotations of the chart's names"][0])
    claim = one(objects, "PersistentVolumeClaim", "-storage")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "delete"
    pod = one(objects, "Deployment", "-api")["spec"]["template"]["metadata"]
    assert pod["annotations"]["kubectl.kubernetes.io/default-container"] == "log"
    (monitor,) = kinds(rendered(ODD["labels of the chart's names"][0]), "ServiceMonitor")
    assert monitor["metadata"]["labels"]["app.kubernetes.io/name"] == "mine"
    assert monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] == "spectrain"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"api": {"podLabels": {"app.kubernetes.io/component": "x"}}}, "its selectors look for it"),
        (pools(podLabels={"spectrain/pool": "other"}), 'workers.pools: "default".podLabels'),
        (pools(sidecars=[{"name": "worker", **IMAGE}]), 'has the name "worker" already'),
        (pools(initContainers=[{"name": "certificates", **IMAGE}]), '"certificates" already'),
        ({"api": {"sidecars": [{"name": "a"}], "initContainers": [{"name": "a"}]}},
         'api: initContainers and sidecars'),
    ],
)  # fmt: skip
def test_what_a_server_would_refuse_is_refused_with_a_sentence(values: Values, why: str) -> None:
    with pytest.raises(Exception, match=re.escape(why)):
        rendered_files(values)


@pytest.mark.parametrize(
    ("scratch", "asks"),
    [
        ({"sizeLimit": "5e9", "tmpSizeLimit": "0.5G"}, 5.5e9),
        ({"sizeLimit": "1.5Ti", "tmpSizeLimit": "1E3"}, 1.5 * 1024**4 + 1000),
        ({"sizeLimit": "1000m", "tmpSizeLimit": "2k"}, 2001),
        ({"sizeLimit": "1Ti", "storageClassName": "fast", "tmpSizeLimit": "1Gi"}, 1024**3),
    ],
)
def test_the_request_of_the_disk_is_that_of_the_volumes(scratch: Values, asks: float) -> None:
    found = container(worker(rendered(pools(scratch=scratch))))["resources"]["requests"]
    assert 0 <= in_bytes(found["ephemeral-storage"]) - asks < 1024**2


def test_a_limit_of_the_disk_takes_the_place_of_the_request() -> None:
    limit = {"limits": {"ephemeral-storage": "10Gi"}}
    resources = container(worker(rendered(pools(resources=limit))))["resources"]
    assert "ephemeral-storage" not in resources.get("requests", {})


def test_settings_of_workers_have_values() -> None:
    objects = rendered(ODD["the same variables from several places"][0])
    found = environment(worker(objects))
    assert found["SPECTRAIN_RUN_BYTES"] == str(10 << 30)
    assert found["SPECTRAIN_JOB_ENV"] == "A", "the user's own comes first"
    assert found["SPECTRAIN_UMASK"] == "007"
    assert environment(one(objects, "Deployment", "-api"))["SPECTRAIN_UMASK"] == "007"
    plain = environment(worker(rendered(pools(jobEnv=["WANDB_*", "MY_PROXY"]))))
    assert plain["SPECTRAIN_JOB_ENV"] == "WANDB_*,MY_PROXY"
    assert "SPECTRAIN_RUN_BYTES" not in plain


def test_workers_have_a_url_of_redis_of_their_own_or_the_notes_say_so() -> None:
    def key_of(values: Values, deployment: str) -> str:
        url = environment(one(rendered(values), "Deployment", deployment))["SPECTRAIN_REDIS_URL"]
        return str(url["secretKeyRef"]["key"])

    own = {"redis": {"enabled": False, "external": {"existingSecret": "r", "workerUrlKey": "w"}}}
    assert (key_of(own, "-api"), key_of(own, "-worker-default")) == ("url", "w")
    assert key_of(EXTERNAL, "-worker-default") == "url"
    assert "name the key of a URL with that user in redis.external.workerUrlKey" in notes(EXTERNAL)
    assert "workerUrlKey" not in notes(own)
    given: Values = {"redis": {"existingSecret": "given"}}
    assert "Secret given, and name its key in redis.workerPasswordKey" in notes(given)
    given["redis"]["workerPasswordKey"] = "worker"
    assert "workerPasswordKey" not in notes(given)
    assert "workerPasswordKey" not in notes()


def test_a_store_of_the_cluster_is_reached_without_the_proxy() -> None:
    values = ODD["a proxy, and a store of the cluster by its short name"][0]
    assert "minio" in environment(worker(rendered(values)))["NO_PROXY"].split(",")
