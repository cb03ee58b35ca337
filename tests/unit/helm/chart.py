"""Renders the chart with Helm's own engine, and finds objects in what comes out."""

from __future__ import annotations

import functools
import importlib.resources
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml
from helm_python import _native
from referencing import Registry, Resource

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm/spectrain"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
VERSIONS = [f"1.{minor}" for minor in range(29, 37)]
OLDEST_AND_NEWEST = [VERSIONS[0], VERSIONS[-1]]
# Those between only in `make test-all`.
each_version = pytest.mark.parametrize(
    "version",
    [
        version
        if version in OLDEST_AND_NEWEST
        else pytest.param(version, marks=pytest.mark.thorough)
        for version in VERSIONS
    ],
)
# Objects of others, of which there is no schema here; their tests look at each field.
FOREIGN = {
    "HTTPRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor", "TriggerAuthentication",
}  # fmt: skip

Values = dict[str, Any]
Object = dict[str, Any]


INPUTS: dict[str, Values] = {
    "default": {},
    **{path.stem: yaml.safe_load(path.read_text()) for path in EXAMPLES},
}
everywhere = pytest.mark.parametrize("values", INPUTS.values(), ids=list(INPUTS))


@functools.cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def example(name: str) -> Values:
    return dict(yaml.safe_load((CHART / "examples" / f"{name}.yaml").read_text()))


def rendered_files(
    values: Values | None = None, *, name: str = "prod", version: str = "1.36", **options: Any
) -> dict[str, str]:
    """The text of each template, by its name."""
    chart().validate_schema(values or {})
    # `Chart.render` knows no version of Kubernetes; the call beneath it does.
    text = _native.call_string(
        "helm_render",
        chart()._raw(),
        json.dumps(values or {}),
        json.dumps({"name": name, "namespace": "ml", "kube_version": f"v{version}.0", **options}),
    )
    return {path.split("/templates/")[1]: part for path, part in json.loads(text).items()}


def objects_of(files: dict[str, str]) -> list[Object]:
    texts = [text for path, text in files.items() if path.endswith(".yaml")]
    return [found for text in texts for found in load_all(text) if found]


def load_all(text: str) -> Iterator[Any]:
    """As `yaml.safe_load_all`, by the parser in C, which takes a tenth of the time."""
    return yaml.load_all(text, yaml.CSafeLoader)


def rendered(values: Values | None = None, **options: Any) -> list[Object]:
    """All objects of a release; equal ones, passwords included, for equal arguments."""
    return list(pickle.loads(_rendered(json.dumps([values or {}, options]))))  # noqa: S301  our own


@functools.cache
def _rendered(arguments: str) -> bytes:
    """Pickled, so that a test may change its objects."""
    values, options = json.loads(arguments)
    return pickle.dumps(objects_of(rendered_files(values, **options)))


def notes(values: Values | None = None, **options: Any) -> str:
    """What is told after an installation, as one line."""
    return re.sub(r"\s+", " ", rendered_files(values, **options)["NOTES.txt"])


def kinds(objects: list[Object], kind: str) -> list[Object]:
    return [found for found in objects if found["kind"] == kind]


def one(objects: list[Object], kind: str, suffix: str) -> Object:
    """The only object of a kind whose name ends so."""
    (found,) = [o for o in kinds(objects, kind) if o["metadata"]["name"].endswith(suffix)]
    return found


def worker(objects: list[Object], pool: str = "default") -> Object:
    return one(objects, "Deployment", f"-worker-{pool}")


def pod_of(found: Object) -> Object:
    """The specification of an object's pods."""
    spec: Object = found["spec"] if found["kind"] == "Pod" else found["spec"]["template"]["spec"]
    return spec


def with_pods(objects: list[Object]) -> list[Object]:
    return [o for o in objects if o["kind"] in {"Deployment", "Job", "StatefulSet", "Pod"}]


def container(found: Object) -> Object:
    """The main container; a user's sidecars come after it."""
    return dict(pod_of(found)["containers"][0])


def environment(found: Object) -> dict[str, Any]:
    """By name, the value or where it comes from; a name that is there twice is an error."""
    entries = container(found)["env"]
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names)
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}


def made_secrets(objects: list[Object]) -> dict[str, set[str]]:
    """The keys of each Secret that the chart's Job makes."""
    return {
        wanted["name"]: {*wanted["random"], *wanted.get("copies", {}), *wanted.get("files", {})}
        for wanted in wanted_secrets(objects)
    }


def wanted_secrets(objects: list[Object]) -> list[Object]:
    """What the chart's Job is told to make."""
    jobs = kinds(objects, "Job")
    return list(json.loads(environment(jobs[0])["SECRETS"])) if jobs else []


# -- what Kubernetes takes --------------------------------------------------------------------


@functools.cache
def _schemas(version: str) -> tuple[Any, Registry[Any]]:
    package = importlib.resources.files(kubernetes_validate)
    folder = package / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    definitions = Resource.from_contents(json.loads((folder / "_definitions.json").read_text()))
    return folder, (definitions @ Registry()).crawl()


@functools.cache
def _validator(version: str, kind: str, api_version: str) -> jsonschema.Draft202012Validator:
    folder, registry = _schemas(version)
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = json.loads((folder / f"{kind.lower()}-{group}.json").read_text())
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _violations(version: str, text: str) -> tuple[str, ...]:
    found = json.loads(text)
    validator = _validator(version, found["kind"], found["apiVersion"])
    where = f"{found['kind']} {found['metadata']['name']}"
    return tuple(f"{where}: {e.json_path}: {e.message}" for e in validator.iter_errors(found))


def violations(objects: list[Object], version: str) -> Iterator[str]:
    """What a server of that version would refuse; a field that it does not know too."""
    for found in objects:
        if found["kind"] not in FOREIGN:
            yield from _violations(version, json.dumps(found))


_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip


def beyond_restricted(pod: Object) -> list[str]:
    """What Pod Security `restricted` refuses in a pod (Pod Security Standards)."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    found += [v["name"] for v in pod["volumes"] if not v.keys() & _VOLUMES]
    for each in [*pod["containers"], *pod.get("initContainers", [])]:
        own = {**pod["securityContext"], **each["securityContext"]}
        refused = {
            "privileged": own.get("privileged"),
            "escalation": own.get("allowPrivilegeEscalation") is not False,
            "root": own.get("runAsNonRoot") is not True or own.get("runAsUser") == 0,
            "capabilities": own.get("capabilities", {}).get("drop") != ["ALL"]
            or own["capabilities"].get("add"),
            "seccomp": own.get("seccompProfile", {}).get("type") != "RuntimeDefault",
            "host ports": [port for port in each.get("ports", []) if "hostPort" in port],
        }
        found += [name for name, bad in refused.items() if bad]
    return found
