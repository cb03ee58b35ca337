"""What the chart promises of workloads, pools, Redis and storage, one test a promise."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from api.cli.main import cli
from api.local.redis_server import RedisConfig
from api.server.app import create_app
from jobs.model.spec import JobSpec
from jobs.model.workers import Pool
from jobs.settings import Settings
from tests.unit.helm.chart import (
    CHART,
    Object,
    Values,
    container,
    environment,
    everywhere,
    example,
    kinds,
    made_secrets,
    objects_of,
    one,
    pod_of,
    rendered,
    rendered_files,
    with_pods,
    worker,
)
from worker.launch.prepare import Slot, base_environment


def pools(*given: dict[str, Any], **more: Any) -> Values:
    return {"workers": {"pools": list(given), **more}}


# -- the API ------------------------------------------------------------------------------------


@everywhere
def test_the_service_leads_to_the_port_of_the_api_and_to_no_other_pod(values: Values) -> None:
    objects = rendered(values)
    service = one(objects, "Service", "-api")
    api = one(objects, "Deployment", "-api")
    selector = service["spec"]["selector"].items()
    assert selector <= api["spec"]["template"]["metadata"]["labels"].items()
    for other in with_pods(objects):
        if other is not api:
            pod = other if other["kind"] == "Pod" else other["spec"]["template"]
            assert not selector <= pod["metadata"]["labels"].items()
    (port,) = container(api)["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert environment(api)["SPECTRAIN_API_PORT"] == str(port["containerPort"])


def test_ingress_and_route_are_there_when_asked_for_and_lead_to_the_service() -> None:
    assert not {"Ingress", "HTTPRoute"} & {found["kind"] for found in rendered()}
    values = {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "hosts": ["a.example.com"],
            "tls": [{"secretName": "tls", "hosts": ["a.example.com"]}],
        },
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "gateway"}],
            "hostnames": ["b.example.com"],
        },
    }
    objects = rendered(values)
    service = one(objects, "Service", "-api")
    name, (port,) = service["metadata"]["name"], service["spec"]["ports"]
    ingress = one(objects, "Ingress", "-api")["spec"]
    assert (ingress["ingressClassName"], ingress["tls"]) == ("nginx", values["ingress"]["tls"])
    (rule,) = ingress["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert (rule["host"], backend) == ("a.example.com", {"name": name, "port": {"name": "http"}})
    route = one(objects, "HTTPRoute", "-api")
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert route["spec"]["parentRefs"] == [{"name": "gateway"}]
    assert route["spec"]["hostnames"] == ["b.example.com"]
    (rule,) = route["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": name, "port": port["port"]}]
    assert rule["timeouts"] == {"request": "0s"}, "a live log lasts as long as its job"
    values["httpRoute"]["timeouts"] = None
    assert "timeouts" not in one(rendered(values), "HTTPRoute", "-api")["spec"]["rules"][0]


def test_the_probes_ask_paths_that_the_api_answers_without_a_token(tmp_path: Path) -> None:
    settings = Settings(
        storage_url=tmp_path.as_uri(), api_tokens="secret-of-sixteen-or-more", api_host="0.0.0.0"
    )
    client = create_app(settings).test_client()
    api = container(one(rendered(), "Deployment", "-api"))
    paths = {name: api[name]["httpGet"]["path"] for name in api if name.endswith("Probe")}
    assert paths == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code in {200, 503}, "503 where Redis is away"
    assert client.get("/v1/pools").status_code == 401


def test_an_api_pod_leaves_the_service_before_it_stops() -> None:
    api = one(rendered(), "Deployment", "-api")
    ((_, seconds),) = [container(api)["lifecycle"]["preStop"]["exec"]["command"]]
    assert pod_of(api)["terminationGracePeriodSeconds"] >= int(seconds) + 5 + 10
    assert api["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


# -- settings and commands ----------------------------------------------------------------------

# What is no setting: the password within the URL, and what the command line reads.
_OTHERS = {
    "SPECTRAIN_REDIS_PASSWORD", "SPECTRAIN_URL", "SPECTRAIN_API_TOKEN",
}  # fmt: skip


@everywhere
def test_each_variable_is_a_setting_with_a_value_that_it_takes(values: Values) -> None:
    for found in with_pods(rendered(values)):
        env = {
            name: value if isinstance(value, str) else "redis://:x@redis/0"
            for name, value in environment(found).items()
            if name.startswith("SPECTRAIN_") and not name.startswith("SPECTRAIN_SECRET_")
        }
        names = {name.removeprefix("SPECTRAIN_").lower() for name in env.keys() - _OTHERS}
        assert names <= Settings.model_fields.keys()
        Settings.model_validate({name: env[f"SPECTRAIN_{name.upper()}"] for name in names})


def test_the_values_default_to_what_the_settings_default_to() -> None:
    env = environment(worker(rendered()))
    for name in ("lease", "grace", "aging", "eviction_min"):
        setting = Settings.model_fields[f"{name}_seconds"].default
        assert float(env[f"SPECTRAIN_{name.upper()}_SECONDS"]) == setting
    assert env["SPECTRAIN_REDIS_PREFIX"] == Settings.model_fields["redis_prefix"].default


@everywhere
def test_no_variable_of_a_service_is_taken_for_a_setting(values: Values) -> None:
    """A Service named spectrain-api would set SPECTRAIN_API_PORT=tcp://…"""
    assert all(
        pod_of(found)["enableServiceLinks"] is False for found in with_pods(rendered(values))
    )


@everywhere
def test_each_command_is_one_of_the_command_line(values: Values) -> None:
    objects = rendered(values)
    for found in kinds(objects, "Deployment"):
        tini, dashes, program, command = container(found)["command"]
        assert (tini, dashes, program) == ("tini", "--", "spectrain")
        assert command in cli.commands
        assert command == ("api" if found["metadata"]["name"].endswith("-api") else "worker")


# -- pools --------------------------------------------------------------------------------------


def test_a_pool_has_one_workload_with_all_that_it_asks_for() -> None:
    (pool,) = [p for p in example("everything")["workers"]["pools"] if p["name"] == "a100"]
    found = worker(rendered(example("everything")), "a100")
    pod = pod_of(found)
    assert environment(found)["SPECTRAIN_POOL"] == "a100"
    assert pod["nodeSelector"] == pool["nodeSelector"]
    assert pool["tolerations"][0] in pod["tolerations"]
    (term,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    (constraint,) = pod["topologySpreadConstraints"]
    assert pool["topologySpreadConstraints"][0].items() <= constraint.items()
    assert pod["priorityClassName"] == pool["priorityClassName"]
    assert pod["runtimeClassName"] == pool["runtimeClassName"]
    meta = found["spec"]["template"]["metadata"]
    assert pool["podAnnotations"].items() <= meta["annotations"].items()
    assert pool["podLabels"].items() <= meta["labels"].items()
    assert pool["extraEnv"][0] in container(found)["env"]
    assert container(found)["image"] == "mirror.example.com/spectrain-worker-cu13:0.1.0"


def test_gpus_are_requested_and_their_taint_is_tolerated_and_training_is_on_them() -> None:
    objects = rendered(
        pools(
            {"name": "two", "gpus": 2},
            {"name": "mig", "gpus": 1, "gpuResource": "nvidia.com/mig-1g.10gb"},
            {"name": "cpu"},
        )
    )
    two, mig, cpu = (worker(objects, name) for name in ("two", "mig", "cpu"))
    for found, resource, count in [(two, "nvidia.com/gpu", 2), (mig, "nvidia.com/mig-1g.10gb", 1)]:
        resources = container(found)["resources"]
        assert resources["limits"][resource] == resources["requests"][resource] == count
        assert resources["limits"]["memory"] == "4Gi", "and what it has besides"
        toleration = {"key": resource, "operator": "Exists", "effect": "NoSchedule"}
        assert toleration in pod_of(found)["tolerations"]
        assert environment(found)["SPECTRAIN_DEVICE"] == "cuda"
    assert environment(cpu)["SPECTRAIN_DEVICE"] == "cpu"
    assert "nvidia" not in str(container(cpu)["resources"])


def test_a_spot_pool_watches_for_notices_and_runs_on_spot_nodes() -> None:
    objects = rendered(pools({"name": "spot", "spot": True}, {"name": "steady"}))
    spot, steady = worker(objects, "spot"), worker(objects, "steady")
    assert environment(spot)["SPECTRAIN_SPOT"] == "auto"
    assert environment(steady)["SPECTRAIN_SPOT"] == "off"
    tolerated = {entry["key"] for entry in pod_of(spot)["tolerations"]}
    assert {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} <= tolerated
    assert "tolerations" not in pod_of(steady)


def test_attempts_write_to_a_disk_of_their_own_and_data_loaders_have_shared_memory() -> None:
    objects = rendered(
        pools(
            {"name": "plain", "scratch": {"sizeLimit": "9Gi"}, "sharedMemory": "3Gi"},
            {"name": "nvme", "scratch": {"storageClassName": "local-nvme"}},
        )
    )
    plain, nvme = worker(objects, "plain"), worker(objects, "nvme")
    volumes = {volume["name"]: volume for volume in pod_of(plain)["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container(plain)["volumeMounts"]}
    assert volumes[mounts[environment(plain)["SPECTRAIN_SCRATCH_DIR"]]]["emptyDir"] == {
        "sizeLimit": "9Gi"
    }
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "3Gi"}
    assert environment(plain)["HOME"] in mounts, "the root is read-only"
    (claim,) = [v for v in pod_of(nvme)["volumes"] if v["name"] == "scratch"]
    assert claim["ephemeral"]["volumeClaimTemplate"]["spec"]["storageClassName"] == "local-nvme"


def test_two_pools_of_one_name_are_refused() -> None:
    with pytest.raises(Exception, match='two pools have the name "a"'):
        rendered(pools({"name": "a"}, {"name": "a"}))


# -- preemption ---------------------------------------------------------------------------------


@pytest.mark.parametrize("grace", [1, 20, 60, 90.5, 7200])
@pytest.mark.parametrize("margin", [10, 30, 600])
def test_kubernetes_waits_longer_than_the_workers_grace(grace: float, margin: int) -> None:
    values = pools({"name": "default", "graceSeconds": grace}, terminationMarginSeconds=margin)
    found = worker(rendered(values))
    assert float(environment(found)["SPECTRAIN_GRACE_SECONDS"]) == grace
    assert pod_of(found)["terminationGracePeriodSeconds"] == math.ceil(grace) + margin


@everywhere
def test_sigterm_reaches_the_worker_at_once(values: Values) -> None:
    """No shell in between, which would swallow it, no hook before it, and no process group."""
    for found in kinds(rendered(values), "Deployment"):
        if "-worker-" in found["metadata"]["name"]:
            assert container(found)["command"] == ["tini", "--", "spectrain", "worker"]
            assert "args" not in container(found)
            assert "lifecycle" not in container(found)


@everywhere
def test_a_drain_takes_some_pods_at_a_time_and_never_waits_for_ever(values: Values) -> None:
    objects = rendered(values)
    budgets = {o["metadata"]["name"]: o["spec"] for o in kinds(objects, "PodDisruptionBudget")}
    deployments = kinds(objects, "Deployment")
    deployments += kinds(objects, "StatefulSet")
    assert budgets.keys() == {found["metadata"]["name"] for found in deployments}
    for found in deployments:
        budget = budgets[found["metadata"]["name"]]
        assert budget["selector"] == found["spec"]["selector"]
        assert "minAvailable" not in budget
        if found["kind"] == "Deployment":
            assert str(budget["maxUnavailable"]) not in {"0", "0%"}
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@everywhere
def test_an_upgrade_gives_the_gpus_of_a_pool_to_its_new_workers(values: Values) -> None:
    for found in kinds(rendered(values), "Deployment"):
        if "-worker-" in found["metadata"]["name"]:
            update = found["spec"]["strategy"]["rollingUpdate"]
            assert update["maxSurge"] == 0
            assert update["maxUnavailable"] not in {0, "0%"}


@everywhere
def test_a_new_version_of_the_chart_alone_restarts_no_pod_and_changes_nothing_that_cannot(
    values: Values, tmp_path: Path
) -> None:
    shutil.copytree(CHART, tmp_path / "chart")
    meta = tmp_path / "chart/Chart.yaml"
    meta.write_text(re.sub(r"^version: .*$", "version: 9.9.9", meta.read_text(), flags=re.M))
    newer = helm_python.Chart.load(tmp_path / "chart").render(values, name="prod", namespace="ml")
    after = objects_of({path.split("/templates/")[1]: text for path, text in newer.items()})
    before = rendered(values)
    assert before[0]["metadata"]["labels"] != after[0]["metadata"]["labels"]
    for old, new in zip(before, after, strict=True):
        if old["kind"] in {"Deployment", "StatefulSet"}:
            assert old["spec"] == new["spec"]


@everywhere
def test_two_renderings_are_the_same_to_the_letter_and_hold_no_secret(values: Values) -> None:
    """As Argo CD renders, without a cluster to look into: it would replace what differs."""
    assert rendered_files(values) == rendered_files(values)
    assert kinds(rendered(values), "Secret") == []


# -- autoscaling --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scaled() -> list[Object]:
    return rendered(example("spot-keda"))


def test_a_pool_is_scaled_by_its_queued_and_running_jobs(
    scaled: list[Object], tmp_path: Path
) -> None:
    app = create_app(Settings(storage_url=tmp_path.as_uri()))
    calls = app.test_client().get("/v1/openapi.json").get_json()["paths"]
    found = one(scaled, "ScaledObject", "-worker-spot")
    (trigger,) = found["spec"]["triggers"]
    assert trigger["type"] == "metrics-api"
    meta = trigger["metadata"]
    service = one(scaled, "Service", "-api")
    base = f"http://{service['metadata']['name']}.ml.svc:{service['spec']['ports'][0]['port']}"
    assert meta["url"] == f"{base}/v1/pools/spot"
    assert "/v1/pools/{name}" in calls
    assert "queued - held + running" in str(Pool.model_fields[meta["valueLocation"]].description)
    assert meta["targetValue"] == "1", "one worker a job"


def test_the_autoscaler_sends_a_token_that_it_reads_from_the_secret(scaled: list[Object]) -> None:
    (trigger,) = one(scaled, "ScaledObject", "-worker-spot")["spec"]["triggers"]
    assert trigger["metadata"]["authMode"] == "bearer"
    authentication = one(scaled, "TriggerAuthentication", trigger["authenticationRef"]["name"])
    (reference,) = authentication["spec"]["secretTargetRef"]
    assert reference["parameter"] == "token"
    assert reference["key"] in made_secrets(scaled)[reference["name"]]


def test_a_pool_is_scaled_to_zero_and_an_upgrade_leaves_its_size_alone(
    scaled: list[Object],
) -> None:
    found = one(scaled, "ScaledObject", "-worker-spot")
    assert (found["spec"]["minReplicaCount"], found["spec"]["maxReplicaCount"]) == (0, 20)
    target = worker(scaled, "spot")
    assert found["spec"]["scaleTargetRef"] == {"name": target["metadata"]["name"]}
    assert "replicas" not in target["spec"]
    assert worker(scaled)["spec"]["replicas"] == 1
    assert len(kinds(scaled, "ScaledObject")) == 1, "only pools that ask for it"


def test_how_a_pool_shrinks_may_be_said_in_the_words_of_kubernetes() -> None:
    found = one(rendered(example("everything")), "ScaledObject", "-worker-a100")
    behavior = found["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]


# -- Redis --------------------------------------------------------------------------------------


def directives(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split(" ", 1) for line in lines)


def test_redis_is_the_official_image_and_keeps_records_as_spectrain_up_does(
    tmp_path: Path,
) -> None:
    objects = rendered()
    found = one(objects, "StatefulSet", "-redis")
    assert container(found)["image"].startswith("docker.io/library/redis:")
    conf = directives(one(objects, "ConfigMap", "-redis")["data"]["redis.conf"])
    ours = directives(RedisConfig(tmp_path).path.read_text())
    machine = {"bind", "port", "requirepass", "dir"}
    assert {k: v for k, v in ours.items() if k not in machine}.items() <= conf.items()
    assert (conf["appendonly"], conf["appendfsync"]) == ("yes", "always")
    assert conf["maxmemory-policy"] == "noeviction"
    mounts = {mount["mountPath"]: mount["name"] for mount in container(found)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_of(found)["volumes"]}
    claim = volumes[mounts[conf["dir"]]]["persistentVolumeClaim"]["claimName"]
    assert one(objects, "PersistentVolumeClaim", claim)


def test_redis_stays_below_its_limit_of_memory_and_is_restarted_by_its_configuration_only() -> None:
    conf = directives(one(rendered(), "ConfigMap", "-redis")["data"]["redis.conf"])
    limit = container(one(rendered(), "StatefulSet", "-redis"))["resources"]["limits"]["memory"]
    assert (conf["maxmemory"], limit) == ("700mb", "1Gi")

    def template(values: Values) -> Any:
        return one(rendered(values), "StatefulSet", "-redis")["spec"]["template"]

    assert template({}) == template({"api": {"replicas": 3}})
    assert template({}) != template({"redis": {"maxMemory": "600mb"}})


def test_no_list_of_processes_shows_the_password_of_redis() -> None:
    found = container(one(rendered(), "StatefulSet", "-redis"))
    assert "<<END\nrequirepass" in found["command"][-1]
    assert "requirepass" not in found["command"][-1].split("<<END")[0]
    probes = str([found[name] for name in found if name.endswith("Probe")])
    assert "-a " not in probes
    assert "REDISCLI_AUTH" in environment(one(rendered(), "StatefulSet", "-redis"))


def test_redis_that_reads_its_file_is_alive_and_not_ready() -> None:
    found = container(one(rendered(), "StatefulSet", "-redis"))
    assert "LOADING" in str(found["livenessProbe"])
    assert "LOADING" in str(found["startupProbe"])
    assert "LOADING" not in str(found["readinessProbe"])


def test_an_external_redis_comes_by_url_or_by_secret_and_none_is_installed() -> None:
    by_url = {"redis": {"enabled": False, "external": {"url": "redis://cache:6379/3"}}}
    by_secret = {"redis": {"enabled": False, "external": {"existingSecret": "cache"}}}
    for values, expected in [
        (by_url, "redis://cache:6379/3"),
        (by_secret, {"secretKeyRef": {"name": "cache", "key": "url"}}),
    ]:
        objects = rendered(values)
        assert kinds(objects, "StatefulSet") == []
        assert list(made_secrets(objects)) == ["prod-spectrain-tokens"]
        for found in kinds(objects, "Deployment"):
            assert environment(found)["SPECTRAIN_REDIS_URL"] == expected
            assert "SPECTRAIN_REDIS_PASSWORD" not in environment(found)


@pytest.mark.parametrize(
    ("redis", "sentence"),
    [
        ({"enabled": False}, "no Redis is configured"),
        ({"external": {"url": "redis://cache"}}, "set redis.enabled to false"),
        (
            {"enabled": False, "external": {"url": "redis://cache", "existingSecret": "cache"}},
            "url or existingSecret, not both",
        ),
    ],
)
def test_no_redis_or_two_are_refused_with_what_to_set(redis: Values, sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        rendered({"redis": redis})


# -- storage ------------------------------------------------------------------------------------


def storage(objects: list[Object]) -> list[tuple[Any, Any]]:
    """By workload: the URL, and the claim that is mounted where it leads to."""
    found = []
    for one_of in kinds(objects, "Deployment"):
        url = environment(one_of)["SPECTRAIN_STORAGE_URL"]
        mounts = {m["mountPath"]: m["name"] for m in container(one_of)["volumeMounts"]}
        volume = mounts.get(url.removeprefix("file://"))
        claims = [v for v in pod_of(one_of)["volumes"] if v["name"] == volume]
        found.append((url, claims[0]["persistentVolumeClaim"]["claimName"] if claims else None))
    return found


def test_a_new_claim_is_shared_by_all_and_outlives_the_release() -> None:
    objects = rendered({"storage": {"newClaim": {"size": "7Gi", "storageClassName": "nfs"}}})
    claim = one(objects, "PersistentVolumeClaim", "-storage")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["spec"]["storageClassName"] == "nfs"
    assert claim["spec"]["resources"] == {"requests": {"storage": "7Gi"}}
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert set(storage(objects)) == {("file:///experiments", claim["metadata"]["name"])}


def test_an_existing_claim_is_taken_as_it_is() -> None:
    values = {"type": "existingClaim", "existingClaim": {"name": "runs", "subPath": "ml"}}
    objects = rendered({"storage": values})
    claims = [claim["metadata"]["name"] for claim in kinds(objects, "PersistentVolumeClaim")]
    assert claims == ["prod-spectrain-redis"]
    assert set(storage(objects)) == {("file:///experiments", "runs")}
    (mount,) = [m for m in container(worker(objects))["volumeMounts"] if m["name"] == "storage"]
    assert mount["subPath"] == "ml"


def test_s3_with_a_secret_gets_its_keys_address_region_and_certificate() -> None:
    objects = rendered(example("everything"))
    assert set(storage(objects)) == {("s3://training-runs", None)}
    for found in kinds(objects, "Deployment"):
        env = environment(found)
        for name, key in [
            ("AWS_ACCESS_KEY_ID", "access-key-id"),
            ("AWS_SECRET_ACCESS_KEY", "secret-access-key"),
            ("AWS_SESSION_TOKEN", "session-token"),
        ]:
            assert env[name] == {"secretKeyRef": {"name": "s3-keys", "key": key}}
        assert env["SPECTRAIN_S3_ENDPOINT_URL"] == "http://store.storage.svc:8333"
        assert env["AWS_REGION"] == "us-east-1"
        mounts = {m["mountPath"]: m["name"] for m in container(found)["volumeMounts"]}
        folder, _, file = env["AWS_CA_BUNDLE"].rpartition("/")
        assert file == "bundle.pem"
        (volume,) = [v for v in pod_of(found)["volumes"] if v["name"] == mounts[folder]]
        assert volume["configMap"] == {"name": "company-ca"}


def test_s3_by_a_role_needs_no_secret(scaled: list[Object]) -> None:
    annotations = example("spot-keda")["serviceAccounts"]["worker"]["annotations"]
    for found in kinds(scaled, "Deployment"):
        assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & environment(found).keys()
        account = one(scaled, "ServiceAccount", pod_of(found)["serviceAccountName"])
        assert account["metadata"]["annotations"] == annotations


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"type": "s3"}, "name the bucket"),
        ({"type": "existingClaim"}, "name the claim"),
    ],
)
def test_storage_that_is_not_named_is_refused(values: Values, sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        rendered({"storage": values})


# -- helm test ----------------------------------------------------------------------------------


@everywhere
def test_helm_test_submits_a_tiny_job_for_the_cpu_and_waits_for_it(values: Values) -> None:
    objects = rendered(values)
    found = one(objects, "Pod", "-test")
    assert found["metadata"]["annotations"]["helm.sh/hook"] == "test"
    env = environment(found)
    job = JobSpec.model_validate(yaml.safe_load(env["JOB"]))
    assert job.resources.gpus == 0
    assert job.train is not None
    assert job.train.steps <= 10
    assert any(
        environment(o).get("SPECTRAIN_POOL") == job.resources.pool
        for o in kinds(objects, "Deployment")
    )
    service = one(objects, "Service", "-api")
    assert service["metadata"]["name"] in env["SPECTRAIN_URL"]
    assert "submit --follow -" in container(found)["command"][-1]
    assert "--follow" in {option for p in cli.commands["submit"].params for option in p.opts}
    assert found["spec"]["activeDeadlineSeconds"] > 0
    assert found["spec"]["restartPolicy"] == "Never"


# -- what a job sees ----------------------------------------------------------------------------


@everywhere
def test_nothing_that_a_worker_reads_from_a_secret_reaches_a_job_unasked(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings()
    for found in kinds(rendered(values), "Deployment"):
        secret = [name for name, value in environment(found).items() if "secretKeyRef" in value]
        assert secret
        for name in secret:
            monkeypatch.setenv(name, "geheim")
        assert not set(secret) & base_environment(Slot(()), settings).keys()


@everywhere
def test_only_the_api_holds_the_tokens_of_the_api(values: Values) -> None:
    for found in kinds(rendered(values), "Deployment"):
        is_api = found["metadata"]["name"].endswith("-api")
        assert ("SPECTRAIN_API_TOKENS" in environment(found)) == is_api


def test_what_jobs_may_name_comes_from_secrets() -> None:
    values = pools({"name": "default"}, secrets={"HF_TOKEN": {"secret": "hub", "key": "token"}})
    env = environment(worker(rendered(values)))
    assert env["SPECTRAIN_SECRET_HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert "SPECTRAIN_SECRET_HF_TOKEN" not in environment(
        one(rendered(values), "Deployment", "-api")
    )
