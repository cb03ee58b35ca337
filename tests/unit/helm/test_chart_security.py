"""What the chart's pods may do, and who may reach whom, one test a promise."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.unit.helm.chart import (
    Object,
    Values,
    beyond_restricted,
    container,
    environment,
    everywhere,
    example,
    kinds,
    one,
    pod_of,
    rendered,
    with_pods,
    worker,
)
from worker.cluster.deletion_cost import ANNOTATION, CREDENTIALS

# -- pods ---------------------------------------------------------------------------------------


@everywhere
def test_each_pod_passes_pod_security_restricted(values: Values) -> None:
    pods = with_pods(rendered(values))
    assert pods
    assert [beyond_restricted(pod_of(found)) for found in pods] == [[]] * len(pods)


@everywhere
def test_each_root_file_system_is_read_only(values: Values) -> None:
    for found in with_pods(rendered(values)):
        assert container(found)["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_users_are_those_of_the_images() -> None:
    for found in with_pods(rendered()):
        user = 999 if found["kind"] == "StatefulSet" else 10001
        context = pod_of(found)["securityContext"]
        assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == user


def test_a_platform_may_choose_the_users() -> None:
    for found in with_pods(rendered({"security": {"runAsUser": None, "fsGroup": None}})):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod_of(found)["securityContext"].keys()
        assert beyond_restricted(pod_of(found)) == []


def token_mounts(found: Object) -> list[Any]:
    return [volume for volume in pod_of(found)["volumes"] if "serviceAccountToken" in str(volume)]


@everywhere
def test_no_pod_has_a_token_of_kubernetes_but_those_that_tell_their_cost(values: Values) -> None:
    objects = rendered(values)
    scaled = {o["spec"]["scaleTargetRef"]["name"] for o in kinds(objects, "ScaledObject")}
    for found in with_pods(objects):
        assert pod_of(found)["automountServiceAccountToken"] is False
        calls_the_api = found["metadata"]["name"] in scaled or found["kind"] == "Job"
        assert bool(token_mounts(found)) == calls_the_api
    for account in kinds(objects, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


@everywhere
def test_no_pod_holds_a_secret_but_by_reference(values: Values) -> None:
    objects = rendered(values)
    for found in with_pods(objects):
        for name, value in environment(found).items():
            if re.search(r"PASSWORD|TOKEN$|TOKENS$|SECRET_|ACCESS_KEY|REDISCLI_AUTH", name):
                assert "secretKeyRef" in value


# -- the deletion cost ----------------------------------------------------------------------------


def test_a_worker_of_an_autoscaled_pool_may_patch_pods_and_nothing_else() -> None:
    objects = rendered(example("spot-keda"))
    role = one(objects, "Role", "-deletion-cost")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}]
    binding = one(objects, "RoleBinding", "-deletion-cost")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    spot = worker(objects, "spot")
    account = pod_of(spot)["serviceAccountName"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "ml"}]
    assert account != pod_of(one(objects, "Deployment", "-api"))["serviceAccountName"]
    assert not {"ClusterRole", "ClusterRoleBinding"} & {o["kind"] for o in objects}


def test_such_a_worker_finds_what_it_needs_to_tell_its_cost() -> None:
    objects = rendered(example("spot-keda"))
    spot, steady = worker(objects, "spot"), worker(objects)
    env = environment(spot)
    assert env["POD_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert env["POD_NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    (volume,) = token_mounts(spot)
    paths = [source.popitem()[1] for source in volume["projected"]["sources"]]
    assert paths[0]["path"] == "token"
    assert paths[1]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]
    mounts = {m["name"]: m["mountPath"] for m in container(spot)["volumeMounts"]}
    assert mounts[volume["name"]] == str(CREDENTIALS)
    assert "POD_NAME" not in environment(steady)


def test_a_policy_holds_that_right_to_its_own_pod_and_the_one_annotation() -> None:
    objects = rendered(example("spot-keda"))
    (policy,) = kinds(objects, "ValidatingAdmissionPolicy")
    (binding,) = kinds(objects, "ValidatingAdmissionPolicyBinding")
    spec = policy["spec"]
    assert spec["failurePolicy"] == "Fail"
    (rule,) = spec["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["pods"], ["UPDATE"])
    account = pod_of(worker(objects, "spot"))["serviceAccountName"]
    assert f'"system:serviceaccount:ml:{account}"' in spec["matchConditions"][0]["expression"]
    own, only = (validation["expression"] for validation in spec["validations"])
    assert "pod-name" in own
    assert "object.spec == oldObject.spec" in only
    assert f'key == "{ANNOTATION}"' in only
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    assert binding["spec"]["validationActions"] == ["Deny"]
    selector = binding["spec"]["matchResources"]["namespaceSelector"]["matchLabels"]
    assert selector == {"kubernetes.io/metadata.name": "ml"}


def test_releases_of_one_name_in_two_namespaces_do_not_share_the_policy() -> None:
    names = {
        kinds(rendered(example("spot-keda"), namespace=namespace), "ValidatingAdmissionPolicy")[0][
            "metadata"
        ]["name"]
        for namespace in ("ml", "research")
    }
    assert len(names) == 2


@pytest.mark.parametrize(
    ("change", "version"), [({"admissionPolicy": False}, "1.36"), ({}, "1.29")]
)
def test_the_policy_is_left_out_where_it_is_not_wanted_or_not_known(
    change: Values, version: str
) -> None:
    values = example("spot-keda")
    values["workers"]["deletionCost"] = change
    assert not kinds(rendered(values, version=version), "ValidatingAdmissionPolicy")
    assert kinds(rendered(values, version=version), "Role")


def test_without_the_deletion_cost_nobody_has_a_right() -> None:
    values = example("spot-keda")
    values["workers"]["deletionCost"] = {"enabled": False}
    objects = rendered(values)
    assert not [o for o in objects if o["metadata"]["name"].endswith("-deletion-cost")]
    assert not any(token_mounts(o) for o in kinds(objects, "Deployment"))
    assert kinds(objects, "ScaledObject"), "and the pool is scaled all the same"


# -- who reaches whom -----------------------------------------------------------------------------

Labels = dict[str, str]


def labels_of(found: Object) -> Labels:
    meta = found["metadata"] if found["kind"] == "Pod" else found["spec"]["template"]["metadata"]
    return dict(meta["labels"])


def selects(selector: Object, labels: Labels) -> bool:
    assert selector.keys() <= {"matchLabels"}
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def rules(objects: list[Object], labels: Labels, direction: str) -> list[Object]:
    """The rules for a pod; it must be under a policy, or everything would be allowed."""
    found = [found["spec"] for found in kinds(objects, "NetworkPolicy")]
    policies = [policy for policy in found if selects(policy["podSelector"], labels)]
    assert policies
    assert all(policy["policyTypes"] == ["Ingress", "Egress"] for policy in policies)
    return [rule for policy in policies for rule in policy[direction]]


def allows(rule: Object, peer: str, other: Labels, port: int) -> bool:
    """Whether a rule lets a pod of the same namespace through on a port."""
    ports = rule.get("ports")
    if ports is not None and port not in [each["port"] for each in ports]:
        return False
    peers = rule.get(peer)
    if peers is None:
        return True
    return any(
        "podSelector" in each
        and "namespaceSelector" not in each
        and selects(each["podSelector"], other)
        for each in peers
    )


def reaches(objects: list[Object], source: Object, target: Object, port: int) -> bool:
    """Whether the policies let a pod of `source` connect to one of `target`."""
    here, there = labels_of(source), labels_of(target)
    leaves = any(allows(r, "to", there, port) for r in rules(objects, here, "egress"))
    enters = any(allows(r, "from", here, port) for r in rules(objects, there, "ingress"))
    return leaves and enters


@everywhere
def test_nothing_reaches_a_worker(values: Values) -> None:
    objects = rendered(values)
    for found in kinds(objects, "Deployment"):
        if "-worker-" in found["metadata"]["name"]:
            assert rules(objects, labels_of(found), "ingress") == []


def test_api_and_workers_reach_redis_and_nobody_else_does() -> None:
    objects = rendered(
        {"networkPolicy": {"apiFrom": [{"podSelector": {"matchLabels": {"a": "b"}}}]}}
    )
    api, redis = one(objects, "Deployment", "-api"), one(objects, "StatefulSet", "-redis")
    test = one(objects, "Pod", "-test")
    assert reaches(objects, api, redis, 6379)
    assert reaches(objects, worker(objects), redis, 6379)
    assert not reaches(objects, test, redis, 6379)
    (entry,) = rules(objects, labels_of(redis), "ingress")
    assert not allows(entry, "from", labels_of(test), 6379), "by Redis' own policy too"
    assert reaches(objects, test, api, 8080)
    assert not reaches(objects, redis, api, 8080)
    assert not reaches(objects, worker(objects), api, 8080)
    assert rules(objects, labels_of(redis), "egress") == []


def egress(values: Values, pool: str = "default") -> list[Object]:
    """The rules of a worker that are not for names."""
    objects = rendered(values)
    found = rules(objects, labels_of(worker(objects, pool)), "egress")
    return [r for r in found if r["ports"][0]["port"] != 53]


def test_a_worker_leaves_its_pod_for_redis_only_where_runs_are_on_a_volume() -> None:
    (rule,) = egress({})
    assert [port["port"] for port in rule["ports"]] == [6379]


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("", 443),
        ("https://s3.example.com", 443),
        ("http://s3.example.com/path", 80),
        ("https://s3.example.com:9000", 9000),
        ("http://s3.example.com:8333/a/1:2", 8333),
        ("http://[fd00::1]:8333", 8333),
    ],
)
def test_a_worker_reaches_the_object_store_on_its_port(url: str, port: int) -> None:
    s3 = {"bucket": "runs", "endpointUrl": url, "existingSecret": "keys"}
    _, rule = egress({"storage": {"type": "s3", "s3": s3}})
    assert rule == {"ports": [{"port": port, "protocol": "TCP"}]}


def test_redis_and_store_elsewhere_are_reached_where_the_values_say_they_are() -> None:
    redis, store = egress(example("external"))
    assert redis == {
        "ports": [{"port": 6380, "protocol": "TCP"}],
        "to": [{"ipBlock": {"cidr": "10.20.0.0/24"}}],
    }
    assert store == {
        "ports": [{"port": 9000, "protocol": "TCP"}],
        "to": [{"ipBlock": {"cidr": "10.30.0.10/32"}}],
    }
    values = {**example("external"), "networkPolicy": {"storagePorts": [8333]}}
    assert egress(values)[1]["ports"] == [{"port": 8333, "protocol": "TCP"}]


def test_a_worker_reaches_what_the_user_allows() -> None:
    rule = {
        "ports": [{"port": 443, "protocol": "TCP"}],
        "to": [{"ipBlock": {"cidr": "1.2.3.0/24"}}],
    }
    assert rule in egress({"networkPolicy": {"workersEgress": [rule]}})


def asks_metadata(values: Values) -> bool:
    return any("169.254.169.254/32" in str(rule) for rule in egress(values))


def test_the_clouds_metadata_is_reached_only_for_notices_or_for_credentials() -> None:
    s3: Values = {"bucket": "runs"}
    assert not asks_metadata({})
    assert not asks_metadata({"storage": {"type": "s3", "s3": {**s3, "existingSecret": "keys"}}})
    assert asks_metadata({"storage": {"type": "s3", "s3": s3}})
    assert asks_metadata({"workers": {"pools": [{"name": "default", "spot": True}]}})


def test_kubernetes_api_is_reached_only_where_the_cost_is_told() -> None:
    pools = [{"name": "default", "autoscaling": {"enabled": True}}]
    _, api = egress({"workers": {"pools": pools}})
    assert [port["port"] for port in api["ports"]] == [443, 6443]
    cost = {"pools": pools, "deletionCost": {"enabled": False}}
    assert len(egress({"workers": cost})) == 1


def test_keda_reaches_an_api_that_not_everybody_may_reach() -> None:
    objects = rendered(example("everything"))
    (rule,) = rules(objects, labels_of(one(objects, "Deployment", "-api")), "ingress")
    namespaces = [
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for peer in rule["from"]
        if "namespaceSelector" in peer
    ]
    assert namespaces == ["ingress-nginx", "keda"]


def test_policies_may_be_left_to_others() -> None:
    assert kinds(rendered({"networkPolicy": {"enabled": False}}), "NetworkPolicy") == []
