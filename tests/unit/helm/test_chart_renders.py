"""The chart renders to what Kubernetes takes, whatever its values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.unit.helm.chart import (
    CHART,
    EXAMPLES,
    OLDEST_AND_NEWEST,
    Values,
    container,
    each_version,
    environment,
    everywhere,
    kinds,
    made_secrets,
    pod_of,
    rendered,
    violations,
    with_pods,
    worker,
)


@everywhere
def test_lint_has_nothing_to_warn_of(values: Values) -> None:
    report = helm_python.lint(CHART, values, strict=True)
    assert report["errors"] == []
    # 1 is information: the chart has no icon.
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@each_version
@everywhere
def test_each_example_is_what_each_version_of_kubernetes_takes(
    values: Values, version: str
) -> None:
    assert list(violations(rendered(values, version=version), version)) == []


def test_the_validation_finds_a_field_that_kubernetes_does_not_know() -> None:
    objects = rendered()
    pod_of(worker(objects))["terminationGraceSeconds"] = 1
    assert any("terminationGraceSeconds" in found for found in violations(objects, "1.29"))


def test_the_examples_are_those_that_the_readme_names() -> None:
    text = (CHART / "README.md").read_text()
    assert all(f"(examples/{path.name})" in text for path in EXAMPLES)
    assert {path.stem for path in EXAMPLES} == {
        "minimal", "gpu", "spot-keda", "external", "everything",
    }  # fmt: skip


# -- random values ------------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)
RELEASES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?", fullmatch=True)
STRINGS = st.dictionaries(st.sampled_from(["team", "x.io/a"]), st.sampled_from(["", "a", "true"]))
POOLS = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES},
        optional={
            "replicas": st.integers(0, 500),
            "gpus": st.integers(0, 16),
            "graceSeconds": st.one_of(st.integers(1, 7200), st.floats(1, 7200)),
            "spot": st.booleans(),
            "cloud": st.sampled_from(["auto", "aws", "gcp", "azure"]),
            "warmStart": st.booleans(),
            "scratch": st.fixed_dictionaries(
                {}, optional={"storageClassName": st.sampled_from(["", "fast"])}
            ),
            "autoscaling": st.fixed_dictionaries(
                {"enabled": st.booleans()},
                optional={"minReplicas": st.integers(0, 5), "maxReplicas": st.integers(5, 900)},
            ),
            "podDisruptionBudget": st.fixed_dictionaries({"enabled": st.booleans()}),
            "podAnnotations": STRINGS,
            "podLabels": STRINGS,
            "nodeSelector": STRINGS,
            "tolerations": st.lists(st.just({"key": "a", "operator": "Exists"}), max_size=2),
        },
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda pool: pool["name"],
)
STORAGE = st.one_of(
    st.just({"type": "newClaim"}),
    st.just({"type": "existingClaim", "existingClaim": {"name": "runs"}}),
    st.fixed_dictionaries(
        {
            "type": st.just("s3"),
            "s3": st.fixed_dictionaries(
                {"bucket": st.just("runs")},
                optional={
                    "endpointUrl": st.sampled_from(["", "http://s3:8333", "https://s3.example.com/a"]),
                    "existingSecret": st.sampled_from(["", "keys"]),
                    "prefix": st.sampled_from(["", "a/b"]),
                },
            ),
        }
    ),
)  # fmt: skip
REDIS = st.sampled_from(
    [
        {"enabled": True},
        {"enabled": True, "existingSecret": "redis"},
        {"enabled": False, "external": {"url": "redis://redis:6379/1"}},
        {"enabled": False, "external": {"existingSecret": "redis", "port": 6380}},
    ]
)
VALUES = st.fixed_dictionaries(
    {"workers": st.fixed_dictionaries({"pools": POOLS}), "storage": STORAGE, "redis": REDIS},
    optional={
        "security": st.just({"runAsUser": None, "fsGroup": None}),
        "networkPolicy": st.fixed_dictionaries({"enabled": st.booleans()}),
        "tokens": st.fixed_dictionaries({"existingSecret": st.sampled_from(["", "tokens"])}),
        "fullnameOverride": NAMES,
    },
)


# Failing values are small enough to be read; making them smaller would take minutes.
@settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    values=VALUES,
    release=RELEASES,
    namespace=st.one_of(st.just("0"), NAMES),
    version=st.sampled_from(OLDEST_AND_NEWEST),
)
def test_whatever_the_values_kubernetes_takes_what_comes_out(
    values: Values, release: str, namespace: str, version: str
) -> None:
    objects = rendered(values, name=release, namespace=namespace, version=version)
    assert list(violations(objects, version)) == []
    names = [(found["kind"], found["metadata"]["name"]) for found in objects]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 for _, name in names)
    for found in kinds(objects, "StatefulSet"):
        assert len(found["metadata"]["name"]) <= 52, "its pods carry its name and a hash as a label"
    for found in with_pods(objects):
        assert_found(found, objects)
    for pool in values["workers"]["pools"]:
        assert_pool(pool, objects)


def assert_found(found: dict[str, Any], objects: list[dict[str, Any]]) -> None:
    """Everything that a pod names and that the chart makes is there."""
    pod = pod_of(found)
    mounts = [mount["name"] for mount in container(found)["volumeMounts"]]
    volumes = [volume["name"] for volume in pod["volumes"]]
    assert sorted(mounts) == sorted(volumes)
    if "selector" in found["spec"]:
        labels = found["spec"]["template"]["metadata"]["labels"]
        assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()
    made = {(o["kind"], o["metadata"]["name"]) for o in objects}
    if account := pod.get("serviceAccountName"):
        assert ("ServiceAccount", account) in made
    for source in environment(found).values():
        reference = source.get("secretKeyRef") if isinstance(source, dict) else None
        if reference and (keys := made_secrets(objects).get(reference["name"])):
            assert reference["key"] in keys


def assert_pool(pool: dict[str, Any], objects: list[dict[str, Any]]) -> None:
    """What a pool says counts, also where that is nothing, and it has one workload."""
    (found,) = [
        o
        for o in kinds(objects, "Deployment")
        if o["metadata"]["labels"].get("spectrain/pool") == pool["name"]
    ]
    env = environment(found)
    assert env["SPECTRAIN_POOL"] == pool["name"]
    assert env["SPECTRAIN_WARM_START"] == str(pool.get("warmStart", True)).lower()
    assert (env["SPECTRAIN_DEVICE"] == "cuda") == (pool.get("gpus", 0) > 0)
    assert (env["SPECTRAIN_SPOT"] == "off") != pool.get("spot", False)
    assert pod_of(found)["terminationGracePeriodSeconds"] >= pool.get("graceSeconds", 60) + 30
    scaled = pool.get("autoscaling", {}).get("enabled", False)
    assert found["spec"].get("replicas") == (None if scaled else pool.get("replicas", 1))
    budgets = [o["spec"]["selector"] for o in kinds(objects, "PodDisruptionBudget")]
    wanted = pool.get("podDisruptionBudget", {}).get("enabled", True)
    assert (found["spec"]["selector"] in budgets) == wanted


def test_a_pool_may_say_zero_and_false_where_the_default_is_more() -> None:
    values = {
        "workers": {
            "defaults": {"gpus": 2, "spot": True, "autoscaling": {"enabled": True}},
            "pools": [
                {"name": "a", "gpus": 0, "spot": False, "autoscaling": {"enabled": False}},
                {"name": "b"},
            ],
        }
    }
    objects = rendered(values)
    assert environment(worker(objects, "a"))["SPECTRAIN_DEVICE"] == "cpu"
    assert environment(worker(objects, "b"))["SPECTRAIN_DEVICE"] == "cuda"
    assert environment(worker(objects, "a"))["SPECTRAIN_SPOT"] == "off"
    assert environment(worker(objects, "b"))["SPECTRAIN_SPOT"] == "auto"
    assert [o["metadata"]["name"] for o in kinds(objects, "ScaledObject")] == [
        "prod-spectrain-worker-b"
    ]


def test_names_that_are_cut_stay_apart() -> None:
    pools = [{"name": f"{'x' * 38}-{letter}"} for letter in "ab"]
    objects = rendered({"workers": {"pools": pools}}, name="r" * 53)
    names = [o["metadata"]["name"] for o in kinds(objects, "Deployment")]
    assert len(set(names)) == 3
    other = rendered(name="r" * 52 + "s")
    assert not {o["metadata"]["name"] for o in other} & {o["metadata"]["name"] for o in objects}


def test_the_chart_has_the_version_of_the_service() -> None:
    meta = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (Path(CHART).parents[1] / "pyproject.toml").read_text()
    assert f'\nversion = "{meta["appVersion"]}"\n' in project
