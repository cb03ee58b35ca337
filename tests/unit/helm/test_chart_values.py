"""The chart's values: their schema, their documents, and what is said after an installation."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
import yaml

from tests.unit.helm.chart import (
    CHART,
    EXAMPLES,
    ROOT,
    Values,
    beyond_restricted,
    chart,
    container,
    each_version,
    example,
    kinds,
    made_secrets,
    notes,
    one,
    pod_of,
    rendered,
    violations,
    worker,
)

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
DEFINITIONS = SCHEMA["definitions"]
# Objects whose keys are the user's, or Kubernetes' own.
_OPEN = {
    "strings", "topologySpreadConstraint", "nodeAffinity", "podAffinity", "podAntiAffinity",
    "podSelector", "namespaceSelector", "valueFrom", "scaleUp", "scaleDown", "requests", "limits",
    "ports[]", "parentRefs[]", "global", "secrets", "kubernetesObject", "securityContext",
}  # fmt: skip


def resolved(schema: Any) -> Any:
    while "$ref" in schema:
        *_, (group, name) = [schema["$ref"].removeprefix("#/").split("/")[-2:]]
        if group == "definitions":
            schema = DEFINITIONS[name]
        else:
            target: Any = SCHEMA
            for part in schema["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            schema = target
    return schema


def uncovered(values: Any, schema: Any, path: str = "") -> Iterator[str]:
    """Values that the schema does not name, and names that have no value."""
    schema = resolved(schema)
    if not isinstance(values, dict) or "properties" not in schema:
        return
    for name in values.keys() - schema["properties"].keys():
        yield f"{path}{name} is in values.yaml only"
    for name in schema["properties"].keys() - values.keys() - {"global"}:
        yield f"{path}{name} is in the schema only"
    for name in values.keys() & schema["properties"].keys():
        yield from uncovered(values[name], schema["properties"][name], f"{path}{name}.")


def test_the_schema_names_every_value_and_no_other() -> None:
    found = list(uncovered(DEFAULTS, SCHEMA))
    shapes = ("behavior.", "affinity.", "resources.")  # of Kubernetes, empty by default
    assert [each for each in found if not any(shape in each for shape in shapes)] == []


def test_a_pool_may_say_all_that_the_defaults_say() -> None:
    pool = resolved(SCHEMA["properties"]["workers"]["properties"]["pools"]["items"])
    assert pool["properties"].keys() == DEFAULTS["workers"]["defaults"].keys() | {"name"}


def objects(schema: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each object in the schema, by where it is."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for name, part in schema.items():
            if name in {"properties", "definitions"}:
                for key, value in part.items():
                    yield from objects(value, key)
            elif name in {"items", "additionalProperties"}:
                yield from objects(part, f"{path}[]")


def test_every_object_refuses_keys_that_it_does_not_know() -> None:
    found = list(objects(SCHEMA, "values"))
    assert len(found) > 40
    lax = {path for path, schema in found if schema.get("additionalProperties") is not False}
    assert lax <= _OPEN


def paths(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from paths(value, (*path, name))


@pytest.mark.parametrize("path", list(paths(DEFAULTS)), ids=".".join)
def test_a_misspelled_value_is_refused_wherever_it_stands(path: tuple[str, ...]) -> None:
    if path and path[-1] in {"requests", "limits", "global"}:
        return
    values: Values = {"replicaz": 1}
    for name in reversed(path):
        values = {name: values}
    with pytest.raises(helm_python.HelmValuesError, match="replicaz"):
        chart().validate_schema(values)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"workers": {"pools": []}}, "/workers/pools"),
        ({"workers": {"pools": [{"gpus": 1}]}}, "/workers/pools/0"),
        ({"workers": {"pools": [{"name": "a_b"}]}}, "/workers/pools/0/name"),
        ({"workers": {"pools": [{"name": "a", "gpus": "1"}]}}, "/workers/pools/0/gpus"),
        ({"workers": {"pools": [{"name": "a", "graceSeconds": 0}]}}, "/workers/pools/0/grace"),
        ({"workers": {"terminationMarginSeconds": 0}}, "/workers/terminationMarginSeconds"),
        ({"workers": {"secrets": {"A": {"value": "hunter2"}}}}, "/workers/secrets/A"),
        ({"redis": {"external": {"url": "redis://:hunter2@cache"}}}, "/redis/external/url"),
        ({"redis": {"password": "hunter2"}}, "/redis"),
        ({"tokens": {"token": "hunter2"}}, "/tokens"),
        ({"storage": {"type": "nfs"}}, "/storage/type"),
        ({"storage": {"s3": {"secretAccessKey": "hunter2"}}}, "/storage/s3"),
        ({"storage": {"s3": {"endpointUrl": "https://k:hunter2@s3"}}}, "/storage/s3/endpointUrl"),
        ({"images": {"api": {"digest": "sha256:abc"}}}, "/images/api/digest"),
        ({"api": {"replicas": 0}}, "/api/replicas"),
        ({"api": {"podDisruptionBudget": {"maxUnavailable": 0}}}, "/api/podDisruptionBudget"),
        ({"api": {"podDisruptionBudget": {"maxUnavailable": "0%"}}}, "/api/podDisruptionBudget"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused_by_its_place(values: Values, where: str) -> None:
    with pytest.raises(helm_python.HelmValuesError) as refused:
        rendered(values)
    assert where.replace("/", ".").strip(".") in str(refused.value).replace("/", ".")


def test_templates_read_no_value_that_there_is_not() -> None:
    text = "".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))
    read = set(re.findall(r"\.Values((?:\.[a-zA-Z0-9]+)+)", text))
    assert len(read) > 40
    for path in read:
        value: Any = DEFAULTS
        for name in path.strip(".").split("."):
            assert isinstance(value, dict), path
            assert name in value, path
            value = value[name]


# -- the README and the manual --------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator() -> Any:
    spec = importlib.util.spec_from_file_location("helm_readme", ROOT / "helm/readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_what_make_chart_readme_writes(generator: Any) -> None:
    assert (CHART / "README.md").read_text() == generator.readme()


def test_the_readme_tells_of_every_value(generator: Any) -> None:
    told = [path for path, _, _ in generator.rows((CHART / "values.yaml").read_text())]
    assert len(told) == len(set(told))
    for path in paths(DEFAULTS):
        name = ".".join(path)
        around = [t for t in told if f"{name}.".startswith(f"{t}.") or t.startswith(f"{name}.")]
        assert around or not path


def test_a_value_without_a_comment_is_an_error(generator: Any) -> None:
    assert list(generator.rows("a:\n  # -- What.\n  b: [1, {c: ''}]\n")) == [
        ("a.b", "[1, {c: ''}]", "What.")
    ]
    with pytest.raises(generator.UndescribedError, match=r"a\.b"):
        list(generator.rows("a:\n  b: 1\n"))


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (CHART / "README.md").read_text()):
        assert "://" in target or (CHART / target).exists(), target


def test_the_values_in_the_manual_are_some() -> None:
    text = (ROOT / "docs/kubernetes.md").read_text()
    blocks = re.findall(r"^```yaml values\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) == 6
    for block in blocks:
        assert rendered(yaml.safe_load(block))


def test_the_application_in_the_manual_leaves_the_size_of_a_scaled_pool_to_keda() -> None:
    text = (ROOT / "docs/kubernetes.md").read_text()
    (block,) = re.findall(r"^```yaml argocd\n(.*?)^```", text, re.M | re.S)
    spec = yaml.safe_load(block)["spec"]
    (file,) = spec["source"]["helm"]["valueFiles"]
    objects = rendered(yaml.safe_load((CHART / file).read_text()), name="spectrain")
    (ignored,) = spec["ignoreDifferences"]
    found = one(objects, ignored["kind"], ignored["name"])
    assert "replicas" not in found["spec"]
    assert ignored["name"] in {o["metadata"]["name"] for o in kinds(objects, "ScaledObject")}
    assert "RespectIgnoreDifferences=true" in spec["syncPolicy"]["syncOptions"]


def test_the_policy_by_name_in_the_manual_is_about_the_workers() -> None:
    text = (ROOT / "docs/kubernetes.md").read_text()
    (block,) = re.findall(r"^```yaml cilium\n(.*?)^```", text, re.M | re.S)
    wanted = yaml.safe_load(block)["spec"]["endpointSelector"]["matchLabels"]
    pod = worker(rendered(name="spectrain"))["spec"]["template"]["metadata"]
    assert wanted.items() <= pod["labels"].items()


def test_the_chart_says_where_it_comes_from() -> None:
    meta = yaml.safe_load((CHART / "Chart.yaml").read_text())
    for key in ("home", "icon", "sources", "maintainers"):
        assert "https://" in str(meta[key])
    assert (ROOT / meta["icon"].partition("/main/")[2]).exists()
    links = yaml.safe_load(meta["annotations"]["artifacthub.io/links"])
    assert all(link["url"].startswith(meta["home"]) for link in links)


def test_the_pod_in_the_manual_is_one_and_mounts_the_volume_of_redis() -> None:
    text = (ROOT / "docs/kubernetes.md").read_text()
    (block,) = re.findall(r"^```yaml pod\n(.*?)^```", text, re.M | re.S)
    pod = yaml.safe_load(block)
    redis = one(rendered(name="spectrain"), "StatefulSet", "-redis")
    (data,) = [v for v in pod_of(redis)["volumes"] if v["name"] == "data"]
    assert pod["spec"]["volumes"] == [data]
    assert container(pod)["image"] == container(redis)["image"]
    assert beyond_restricted(pod["spec"]) == []


@each_version
def test_each_version_of_kubernetes_takes_the_pod_in_the_manual(version: str) -> None:
    text = (ROOT / "docs/kubernetes.md").read_text()
    (block,) = re.findall(r"^```yaml pod\n(.*?)^```", text, re.M | re.S)
    assert list(violations([yaml.safe_load(block)], version)) == []


def test_the_manual_calls_objects_by_their_names() -> None:
    text = (ROOT / "docs/kubernetes.md").read_text()
    objects = rendered(name="spectrain")
    names = {found["metadata"]["name"] for found in objects} | made_secrets(objects).keys()
    for kind in ("service/", "get secret ", "scale statefulset ", "scale deployment "):
        called = set(re.findall(rf"{kind}([a-z][\w-]+)", text))
        assert called
        assert called <= names


# -- what is said after an installation -----------------------------------------------------------


@pytest.mark.parametrize("name", ["default", *(path.stem for path in EXAMPLES)])
def test_the_notes_say_how_to_reach_the_api_read_the_token_and_test(name: str) -> None:
    text = notes({} if name == "default" else example(name))
    assert "SPECTRAIN_URL=" in text
    assert "get secret" in text
    assert "base64decode" in text
    assert "helm test prod --namespace ml" in text
    assert "<no value>" not in text


def test_the_notes_warn_of_a_volume_that_pods_on_several_nodes_cannot_share() -> None:
    alone: Values = {"storage": {"newClaim": {"accessModes": ["ReadWriteOnce"]}}}
    assert "WARNING: the claim prod-spectrain-storage is ReadWriteOnce, and 2 pods" in notes(alone)
    many = {**alone, "workers": {"pools": [{"name": "a", "replicas": 3}]}}
    assert "4 pods" in notes(many)
    scaled = [{"name": "a", "autoscaling": {"enabled": True, "maxReplicas": 7}}]
    assert "8 pods" in notes({**alone, "workers": {"pools": scaled}})
    assert "ReadWriteOnce" not in notes()
    none = {"pools": [{"name": "a", "replicas": 0}]}
    assert "ReadWriteOnce" not in notes({**alone, "workers": none})


def test_the_notes_warn_of_what_else_does_not_work_by_itself() -> None:
    assert "images.registry is empty" in notes()
    assert "images.registry" not in notes(example("gpu"))
    gcp = {"name": "a", "spot": True, "cloud": "gcp"}
    assert "graceSeconds to 20" in notes({"workers": {"pools": [gcp]}})
    assert "graceSeconds to 20" not in notes({"workers": {"pools": [{**gcp, "graceSeconds": 20}]}})
    assert "before Kubernetes 1.30" in notes(example("spot-keda"), version="1.29")
    values = example("spot-keda")
    values["workers"]["deletionCost"] = {"enabled": False}
    assert "without the deletion cost" in notes(values)


def test_the_notes_say_what_uninstalling_keeps() -> None:
    said = notes()
    assert "keeps the claim prod-spectrain-storage and the claim prod-spectrain-redis of" in said
    assert "and the Secrets that the chart's Job made" in said


def test_the_notes_name_the_doctor_and_warn_of_what_is_known_to_be_wrong_already() -> None:
    assert "exec deploy/prod-spectrain-api -- spectrain doctor" in notes()
    s3: Values = {"bucket": "runs", "endpointUrl": "https://s3.storage.svc:8333"}
    said = notes({"storage": {"type": "s3", "s3": s3}})
    assert "name the ConfigMap with its certificate in global.caBundle" in said
    assert "must come from the role of the nodes" in said
    well = {**s3, "caBundle": {"configMap": "ca"}, "existingSecret": "keys"}
    said = notes({"storage": {"type": "s3", "s3": well}})
    assert "caBundle" not in said
    assert "existingSecret" not in said
