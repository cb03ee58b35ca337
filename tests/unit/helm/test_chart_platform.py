"""What the chart lets a platform team add, and what it takes from their clusters."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.settings import Settings
from tests.unit.helm.chart import (
    OLDEST_AND_NEWEST,
    Object,
    Values,
    beyond_restricted,
    container,
    environment,
    everywhere,
    example,
    kinds,
    notes,
    one,
    pod_of,
    rendered,
    violations,
    with_pods,
    worker,
)
from worker.launch.prepare import Slot, base_environment


def pools(*given: dict[str, Any], **more: Any) -> Values:
    return {"workers": {"pools": list(given), **more}}


def ours(objects: list[Object]) -> list[Object]:
    """The pods of the API and the workers."""
    return kinds(objects, "Deployment")


# -- what a user adds to the pods ----------------------------------------------------------------

ADDED: Values = {
    "envFrom": [{"secretRef": {"name": "more"}}],
    "extraVolumes": [{"name": "data", "configMap": {"name": "data"}}],
    "extraVolumeMounts": [{"name": "data", "mountPath": "/data"}],
    "initContainers": [{"name": "before", "image": "before:1"}],
    "sidecars": [{"name": "beside", "image": "beside:1"}],
    "hostAliases": [{"ip": "10.0.0.7", "hostnames": ["store.example.com"]}],
}


@pytest.mark.parametrize("version", OLDEST_AND_NEWEST)
def test_volumes_containers_and_hosts_are_added_to_the_api_and_to_a_pool(version: str) -> None:
    values = {"api": ADDED, **pools({"name": "a", **ADDED}, {"name": "b"})}
    objects = rendered(values, version=version)
    assert list(violations(objects, version)) == []
    for found in (one(objects, "Deployment", "-api"), worker(objects, "a")):
        pod, main = pod_of(found), container(found)
        assert main["envFrom"] == ADDED["envFrom"]
        assert ADDED["extraVolumeMounts"][0] in main["volumeMounts"]
        assert ADDED["extraVolumes"][0] in pod["volumes"]
        assert pod["initContainers"] == ADDED["initContainers"]
        assert pod["containers"][1:] == ADDED["sidecars"]
        assert pod["hostAliases"] == ADDED["hostAliases"]
    other = pod_of(worker(objects, "b"))
    assert not {"initContainers", "hostAliases"} & other.keys()
    assert len(other["containers"]) == 1


def test_a_variable_of_the_user_takes_the_place_of_the_charts() -> None:
    mine = [
        {"name": "SPECTRAIN_LEASE_SECONDS", "value": "45"},
        {"name": "SPECTRAIN_REDIS_PASSWORD", "value": "mine"},
        {"name": "NEW", "value": "1"},
    ]
    objects = rendered({"api": {"extraEnv": mine}, **pools({"name": "a", "extraEnv": mine})})
    for found in ours(objects):
        env = environment(found)  # a name that is there twice is an error
        assert {name: env[name] for name in ("SPECTRAIN_LEASE_SECONDS", "NEW")} == {
            "SPECTRAIN_LEASE_SECONDS": "45", "NEW": "1",
        }  # fmt: skip
        # Kubernetes expands $(SPECTRAIN_REDIS_PASSWORD) from what stands before it.
        names = list(env)
        assert env["SPECTRAIN_REDIS_PASSWORD"] == "mine"
        assert names.index("SPECTRAIN_REDIS_PASSWORD") < names.index("SPECTRAIN_REDIS_URL")


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"api": {"extraEnv": [{"name": "A", "value": "1"}] * 2}}, "api.extraEnv: A"),
        (pools({"name": "a", "extraEnv": [{"name": "A"}] * 2}), 'pools: "a".extraEnv: A'),
    ],
)
def test_a_variable_that_a_user_gives_twice_is_refused(values: Values, where: str) -> None:
    with pytest.raises(Exception, match=f"{where} is there twice"):
        rendered(values)


# -- authorities, proxies, registries ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["configMap", "secret"])
def test_all_pods_trust_an_authority_of_your_own_beside_the_public_ones(kind: str) -> None:
    values = {"global": {"caBundle": {kind: "company", "key": "bundle.pem"}}}
    s3 = {"storage": {"type": "s3", "s3": {"bucket": "runs", "existingSecret": "keys"}}}
    for found in ours(rendered({**values, **s3})):
        pod, env = pod_of(found), environment(found)
        (before,) = pod["initContainers"]
        *_, script = before["command"]
        read, _, written = script.removeprefix("cat ").partition(" > ")
        assert env["SSL_CERT_FILE"] == env["REQUESTS_CA_BUNDLE"] == env["AWS_CA_BUNDLE"] == written
        assert read.split()[0] == "/etc/ssl/certs/ca-certificates.crt", "the public ones"
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {m["mountPath"]: m["name"] for m in before["volumeMounts"]}
        folder, _, file = read.split()[1].rpartition("/")
        (source,) = [v for k, v in volumes[mounts[folder]].items() if k in {"configMap", "secret"}]
        assert "company" in source.values()
        assert source["items"] == [{"key": "bundle.pem", "path": file}]
        trusted = {m["mountPath"]: m["name"] for m in container(found)["volumeMounts"]}
        folder = written.rpartition("/")[0]
        assert trusted[folder] == mounts[folder]
        assert before["image"] == container(found)["image"]
        assert beyond_restricted(pod) == []


def test_jobs_trust_it_and_use_the_proxies_too(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = {"http": "http://proxy:3128", "https": "http://proxy:3128", "noProxy": ".example.com"}
    values = {"global": {"caBundle": {"secret": "company"}, "proxy": proxy}}
    env = environment(worker(rendered(values)))
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTPS_PROXY", "http_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, env[name])
        assert base_environment(Slot(()), Settings())[name] == env[name]
    assert env["HTTP_PROXY"] == env["http_proxy"] == "http://proxy:3128"
    direct = env["no_proxy"].split(",")
    assert {".svc", "169.254.169.254", "127.0.0.1", ".example.com"} <= set(direct)
    assert "HTTP_PROXY" not in environment(worker(rendered()))


def test_a_bundle_of_two_sources_is_refused() -> None:
    with pytest.raises(Exception, match="configMap or secret, not both"):
        rendered({"global": {"caBundle": {"configMap": "a", "secret": "b"}}})


def test_the_certificate_of_the_store_alone_is_still_the_stores() -> None:
    values = example("external")
    values["global"] = {"caBundle": {"secret": "company"}}
    env = environment(worker(rendered(values)))
    assert env["AWS_CA_BUNDLE"] == "/etc/spectrain/ca/ca.crt"
    assert env["SSL_CERT_FILE"] == "/etc/spectrain/trust/ca.crt"


def test_one_registry_and_its_credentials_serve_the_images_of_all_pods() -> None:
    values = {
        "global": {"imageRegistry": "mirror.example.com"},
        "images": {"registry": "registry.example.com/ml", "pullSecrets": ["login"]},
    }
    for found in with_pods(rendered(values)):
        assert container(found)["image"].startswith("mirror.example.com/")
        assert pod_of(found)["imagePullSecrets"] == [{"name": "login"}]
    image = container(one(rendered(values), "StatefulSet", "-redis"))["image"]
    assert image.startswith("mirror.example.com/library/redis:")
    del values["global"]
    image = container(one(rendered(values), "StatefulSet", "-redis"))["image"]
    assert image.startswith("docker.io/library/redis:")


# -- GPUs, disks, devices ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resource", "taints"),
    [
        ("nvidia.com/gpu", {"nvidia.com/gpu"}),
        ("nvidia.com/mig-1g.10gb", {"nvidia.com/mig-1g.10gb", "nvidia.com/gpu"}),
        ("amd.com/gpu", {"amd.com/gpu"}),
    ],
)
def test_a_pool_tolerates_the_taint_of_its_nodes(resource: str, taints: set[str]) -> None:
    found = worker(rendered(pools({"name": "default", "gpus": 1, "gpuResource": resource})))
    assert {entry["key"] for entry in pod_of(found)["tolerations"]} == taints
    assert len(pod_of(found)["tolerations"]) == len(taints)
    assert container(found)["resources"]["limits"][resource] == 1


@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("kind", ["requests", "limits"])
@pytest.mark.parametrize("name", ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb", "amd.com/gpu"])
def test_a_gpu_among_the_resources_is_refused(name: str, kind: str, gpus: int) -> None:
    pool = {"name": "a", "gpus": gpus, "resources": {kind: {name: 1}}}
    with pytest.raises(Exception, match=f'"a": resources.{kind}: no job would use the {name}: set'):
        rendered(pools(pool))


def test_another_device_is_nobodys_business() -> None:
    limits = {"rdma/hca": 1, "nvidia.com/hostdev": 1}
    found = worker(rendered(pools({"name": "default", "resources": {"limits": limits}})))
    assert limits.items() <= container(found)["resources"]["limits"].items()


@pytest.mark.parametrize(
    ("pool", "request_"),
    [
        ({}, "61440Mi"),
        ({"scratch": {"sizeLimit": "1.5Ti", "tmpSizeLimit": "500M"}}, "1573341Mi"),
        ({"scratch": {"storageClassName": "local-nvme", "tmpSizeLimit": "2Gi"}}, "2048Mi"),
        ({"resources": {"requests": {"ephemeral-storage": "1Gi"}}}, "1Gi"),
    ],
)
def test_a_worker_requests_the_disk_that_it_may_fill(pool: Values, request_: str) -> None:
    found = container(worker(rendered(pools({"name": "default", **pool}))))
    assert found["resources"]["requests"]["ephemeral-storage"] == request_
    assert "ephemeral-storage" not in found["resources"]["limits"]


def test_the_api_requests_its_disk_too() -> None:
    found = one(rendered(), "Deployment", "-api")
    (tmp,) = [v["emptyDir"] for v in pod_of(found)["volumes"] if v["name"] == "tmp"]
    assert container(found)["resources"]["requests"]["ephemeral-storage"] == tmp["sizeLimit"]


def test_gpus_may_come_from_claims_of_dynamic_resource_allocation() -> None:
    claim = {"name": "gpus", "resourceClaimTemplateName": "two-gpus"}
    pool = {"name": "default", "gpus": 2, "gpuResource": "", "resourceClaims": [claim]}
    objects = rendered(pools(pool))
    assert list(violations(objects, "1.36")) == []
    found = worker(objects)
    assert pod_of(found)["resourceClaims"] == [claim]
    assert container(found)["resources"]["claims"] == [{"name": "gpus"}]
    assert environment(found)["SPECTRAIN_DEVICE"] == "cuda"
    assert "nvidia.com/gpu" not in str(container(found)["resources"])
    with pytest.raises(Exception, match="set gpuResource or resourceClaims"):
        rendered(pools({**pool, "resourceClaims": []}))


def test_a_pool_may_have_capabilities_a_scheduler_and_users_of_its_own() -> None:
    own = {"capabilities": {"add": ["IPC_LOCK"]}}
    pool = {"name": "a", "securityContext": own, "schedulerName": "volcano", "hostUsers": False}
    objects = rendered(pools(pool, {"name": "b"}))
    assert list(violations(objects, "1.36")) == []
    a, b = worker(objects, "a"), worker(objects, "b")
    context = container(a)["securityContext"]
    assert context["capabilities"] == {"add": ["IPC_LOCK"], "drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True
    assert container(b)["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert (pod_of(a)["schedulerName"], pod_of(a)["hostUsers"]) == ("volcano", False)
    assert not {"schedulerName", "hostUsers"} & pod_of(b).keys()


# -- placement -----------------------------------------------------------------------------------

TERM = {"topologyKey": "kubernetes.io/hostname"}
PLACED: Values = {
    "affinity": {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [TERM],
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": TERM}
            ],
        },
        "podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {**TERM, "labelSelector": {"matchLabels": {"app": "mine"}}}
            ]
        },
    },
    "topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", **TERM}],
}


def test_terms_without_a_selector_are_about_the_pods_themselves() -> None:
    objects = rendered({"api": PLACED, **pools({"name": "a", **PLACED})})
    for found in (one(objects, "Deployment", "-api"), worker(objects, "a")):
        pod, wanted = pod_of(found), found["spec"]["selector"]
        anti = pod["affinity"]["podAntiAffinity"]
        (required,) = anti["requiredDuringSchedulingIgnoredDuringExecution"]
        (preferred,) = anti["preferredDuringSchedulingIgnoredDuringExecution"]
        (constraint,) = pod["topologySpreadConstraints"]
        for each in (required, preferred["podAffinityTerm"], constraint):
            assert each["labelSelector"] == wanted
            assert each["topologyKey"] == TERM["topologyKey"]
        (own,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert own["labelSelector"] == {"matchLabels": {"app": "mine"}}


def test_the_pod_of_helm_test_is_placed_and_limited_as_the_values_say() -> None:
    test = example("everything")["test"]
    found = one(rendered(example("everything")), "Pod", "-test")
    assert container(found)["resources"] == test["resources"]
    for name in ("nodeSelector", "tolerations", "priorityClassName"):
        assert pod_of(found)[name] == test[name]


# -- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "host"),
    [
        ({}, "0.0.0.0"),
        ({"ipFamilies": ["IPv4"]}, "0.0.0.0"),
        ({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}, "::"),
        ({"ipFamilyPolicy": "PreferDualStack"}, "::"),
    ],
)
def test_services_have_the_families_that_were_asked_for(network: Values, host: str) -> None:
    objects = rendered({"network": network})
    services = kinds(objects, "Service")
    assert len(services) == 2
    for service in services:
        assert {k: v for k, v in service["spec"].items() if k.startswith("ipFam")} == network
    assert environment(one(objects, "Deployment", "-api"))["SPECTRAIN_API_HOST"] == host


@pytest.mark.parametrize(
    ("url", "redirect"),
    [
        ("", "true"),
        ("https://s3.example.com", "true"),
        ("http://10.0.0.7:9000", "true"),
        ("http://[fd00::1]:8333", "true"),
        ("http://store.storage.svc:8333", "false"),
        ("https://store.storage.svc.cluster.local", "false"),
        ("http://store:8333", "false"),
    ],
)
def test_clients_are_not_sent_to_an_address_that_only_the_cluster_knows(
    url: str, redirect: str
) -> None:
    s3: Values = {"bucket": "runs", "endpointUrl": url}
    api = one(rendered({"storage": {"type": "s3", "s3": s3}}), "Deployment", "-api")
    assert environment(api)["SPECTRAIN_S3_REDIRECT"] == redirect
    for given in (True, False):
        values = {"storage": {"type": "s3", "s3": {**s3, "redirect": given}}}
        api = one(rendered(values), "Deployment", "-api")
        assert environment(api)["SPECTRAIN_S3_REDIRECT"] == str(given).lower()


def test_names_are_resolved_on_the_ports_of_the_clusters_dns() -> None:
    def ports(values: Values) -> set[int]:
        policies = kinds(rendered(values), "NetworkPolicy")
        rules = [r for p in policies for r in p["spec"]["egress"]]
        return {p["port"] for r in rules for p in r["ports"] if p["protocol"] == "UDP"}

    assert ports({}) == {53, 5353}, "OpenShift's pods listen on the second"
    assert ports({"networkPolicy": {"dnsPorts": [1053]}}) == {1053}


# -- what the notes say of the network -----------------------------------------------------------


def test_the_notes_say_all_that_jobs_can_reach() -> None:
    said = notes()
    assert "can connect to: - the cluster's DNS (53, 5353) - Redis This holds if" in said
    assert "nothing else" not in said
    said = notes(example("spot-keda"))
    assert "any address on 443, for the object store" in said
    assert "the cloud's metadata service" in said
    assert "any address on 443, 6443, for the Kubernetes API" in said
    said = notes(example("external"))
    assert "the peers in networkPolicy.redisTo on 6380, for Redis" in said
    assert "the peers in networkPolicy.storageTo on 9000, for the object store" in said
    assert "what networkPolicy.workersEgress allows" in notes(example("gpu"))
    assert "can connect to" not in notes({"networkPolicy": {"enabled": False}})


# -- rights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "default"])
def test_the_right_to_patch_pods_goes_to_no_account_that_others_have(name: str) -> None:
    accounts = {"worker": {"create": False, "name": name}}
    scaled = {"autoscaling": {"enabled": True}}
    with pytest.raises(Exception, match=r"serviceAccounts\.worker\.name: name an account"):
        rendered({"serviceAccounts": accounts, **pools({"name": "a", **scaled})})
    assert rendered({"serviceAccounts": accounts}), "without autoscaling there is no such right"
    accounts["worker"]["name"] = "ours"
    assert rendered({"serviceAccounts": accounts, **pools({"name": "a", **scaled})})


def test_a_scraper_and_an_autoscaler_hold_no_token_that_may_train() -> None:
    values = example("everything")
    objects = rendered(values)
    (monitor,) = kinds(objects, "ServiceMonitor")
    (scaler,) = kinds(objects, "TriggerAuthentication")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"]["key"] == "metrics-token"
    assert scaler["spec"]["secretTargetRef"][0]["key"] == "viewer-token"
    api = one(objects, "Deployment", "-api")
    assert environment(api)["SPECTRAIN_API_TOKENS"]["secretKeyRef"]["key"] == "tokens"
    mounts = {m["mountPath"]: m["name"] for m in container(api)["volumeMounts"]}
    folder, _, file = environment(api)["SPECTRAIN_TOKENS_FILE"].rpartition("/")
    (volume,) = [v for v in pod_of(api)["volumes"] if v["name"] == mounts[folder]]
    assert volume["secret"]["items"] == [{"key": file, "path": file}]
    for found in ours(objects):
        if found is not api:
            assert "tokens" not in str(pod_of(found)["volumes"])


def test_a_secret_without_a_file_of_tokens_is_enough() -> None:
    api = one(rendered({"tokens": {"fileKey": ""}}), "Deployment", "-api")
    assert "SPECTRAIN_TOKENS_FILE" not in environment(api)
    assert "tokens" not in [volume["name"] for volume in pod_of(api)["volumes"]]


# -- Redis ---------------------------------------------------------------------------------------


def test_the_volume_of_redis_is_a_claim_that_an_upgrade_can_grow() -> None:
    def parts(size: str) -> tuple[Object, Object]:
        objects = rendered({"redis": {"storage": {"size": size}}})
        return one(objects, "StatefulSet", "-redis"), one(
            objects, "PersistentVolumeClaim", "-redis"
        )

    (small, claim), (large, grown) = parts("8Gi"), parts("16Gi")
    assert small == large, "of a StatefulSet that could not be changed"
    assert "volumeClaimTemplates" not in small["spec"]
    assert claim["metadata"] == grown["metadata"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert grown["spec"]["resources"] == {"requests": {"storage": "16Gi"}}


def test_a_claim_that_is_there_is_taken_for_redis() -> None:
    objects = rendered({"redis": {"storage": {"existingClaim": "data-prod-spectrain-redis-0"}}})
    (claim,) = kinds(objects, "PersistentVolumeClaim")
    assert claim["metadata"]["name"] == "prod-spectrain-storage"
    (data,) = [v for v in pod_of(one(objects, "StatefulSet", "-redis"))["volumes"]
               if v["name"] == "data"]  # fmt: skip
    assert data["persistentVolumeClaim"] == {"claimName": "data-prod-spectrain-redis-0"}


@pytest.mark.parametrize("most", [0, 1])
def test_a_drain_waits_for_redis_where_that_is_asked_for(most: int) -> None:
    budget = {"maxUnavailable": most}
    objects = rendered({"redis": {"podDisruptionBudget": budget}})
    found = one(objects, "PodDisruptionBudget", "-redis")["spec"]
    assert found["maxUnavailable"] == most
    assert found["selector"] == one(objects, "StatefulSet", "-redis")["spec"]["selector"]


def test_redis_has_its_security_fixes_and_valkey_is_a_choice() -> None:
    image = container(one(rendered(), "StatefulSet", "-redis"))["image"]
    version = tuple(map(int, image.rpartition(":")[2].split(".")))
    assert version >= (8, 2, 3), "CVE-2025-62507"
    valkey = {"repository": "valkey/valkey", "tag": "9.0.4"}
    found = container(one(rendered({"redis": {"image": valkey}}), "StatefulSet", "-redis"))
    assert found["image"] == "docker.io/valkey/valkey:9.0.4"
    assert found["command"][-1].startswith('exec "$(command -v valkey-server ||')
    assert all("valkey-cli" in str(found[n]) for n in found if n.endswith("Probe"))


@everywhere
def test_every_pod_says_what_it_needs(values: Values) -> None:
    """A quota on requests or limits refuses a container that says nothing."""
    for found in with_pods(rendered(values)):
        before = [c for c in pod_of(found).get("initContainers", []) if c["name"] == "certificates"]
        for each in [container(found), *before]:
            assert {"cpu", "memory"} <= each["resources"]["requests"].keys()
            assert "memory" in each["resources"]["limits"]
