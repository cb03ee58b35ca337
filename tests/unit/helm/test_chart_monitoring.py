"""What the chart gives to Prometheus and Grafana, where that is asked for."""

from __future__ import annotations

import json
import re

import pytest

from tests.unit.helm.chart import (
    CHART,
    environment,
    example,
    kinds,
    made_secrets,
    one,
    rendered,
)

ALERTS = {"monitoring": {"prometheusRule": {"enabled": True}}}


def test_nothing_of_it_is_there_by_default() -> None:
    objects = rendered()
    assert not kinds(objects, "ServiceMonitor") + kinds(objects, "PrometheusRule")
    assert not [o for o in kinds(objects, "ConfigMap") if o["metadata"]["name"].endswith("board")]


def test_prometheus_scrapes_the_api_with_a_token_of_the_release() -> None:
    objects = rendered({"monitoring": {"serviceMonitor": {"enabled": True}}})
    (monitor,) = kinds(objects, "ServiceMonitor")
    service = one(objects, "Service", "-api")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["path"], endpoint["port"]) == ("/metrics", service["spec"]["ports"][0]["name"])
    reference = endpoint["authorization"]["credentials"]
    assert reference["key"] in made_secrets(objects)[reference["name"]]
    api = environment(one(objects, "Deployment", "-api"))
    assert api["SPECTRAIN_API_TOKENS"]["secretKeyRef"]["name"] == reference["name"]


def test_alerts_look_at_this_release_only_and_say_what_to_do() -> None:
    (rule,) = kinds(rendered(ALERTS), "PrometheusRule")
    (group,) = rule["spec"]["groups"]
    names = {alert["alert"] for alert in group["rules"]}
    assert names >= {
        "SpectrainNoReaperPass", "SpectrainQueueWithoutWorkers", "SpectrainJobsLostRepeatedly",
        "SpectrainStorageNotReady", "SpectrainWorkerUnhealthy",
    }  # fmt: skip
    for alert in group["rules"]:
        for selector in re.findall(r"spectrain_\w+(\{[^}]*\})?", alert["expr"]):
            assert 'namespace="ml"' in selector, alert["alert"]
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["description"]
        assert alert["labels"]["severity"] in {"warning", "critical"}


@pytest.mark.parametrize(("lease", "seconds"), [(5, "60"), (60, "240")])
def test_a_longer_lease_gives_the_reaper_longer(lease: int, seconds: str) -> None:
    (rule,) = kinds(rendered({"settings": {"leaseSeconds": lease}, **ALERTS}), "PrometheusRule")
    alerts = {alert["alert"]: alert for alert in rule["spec"]["groups"][0]["rules"]}
    assert alerts["SpectrainNoReaperPass"]["expr"].endswith(f"> {seconds}")


def test_grafanas_sidecar_finds_the_dashboard() -> None:
    found = one(rendered(example("everything")), "ConfigMap", "-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["namespace"] == "monitoring"
    kept = json.loads((CHART / "files/dashboard.json").read_text())
    assert json.loads(found["data"]["spectrain.json"]) == kept
