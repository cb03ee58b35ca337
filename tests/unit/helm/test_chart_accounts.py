"""What the chart lets a platform team say of people, and of what the API tells other services."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from jobs.settings import Settings
from jobs.webhooks.address import is_global
from tests.unit.helm.chart import Object, Values, environment, example, kinds, one, rendered


def settings_of(values: Values, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that the API reads of its pod, its secrets aside."""
    for name, value in environment(one(rendered(values), "Deployment", "-api")).items():
        if isinstance(value, str) and not name.startswith("SPECTRAIN_REDIS"):
            monkeypatch.setenv(name, value)
    return Settings()


def test_proxies_sign_on_and_limits_are_the_settings_of_the_api(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = settings_of(example("everything"), monkeypatch)
    assert [str(network) for network in found.proxy_networks] == ["10.0.3.0/24"]
    assert (found.sso_header, found.sso_role) == ("X-Forwarded-User", "viewer")
    assert found.sso_admin_names == {"ada@example.com", "bob@example.com"}
    assert (found.owner_requests, found.owner_running, found.owner_gpus) == (20.5, 100, 64)
    assert found.webhook_private


def test_by_default_no_proxy_is_believed_and_nobody_is_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, default = settings_of({}, monkeypatch), Settings.model_fields
    for name in ("trusted_proxies", "sso_header", "sso_role", "sso_admins", "owner_requests",
                 "owner_running", "owner_gpus", "webhook_secret", "webhook_private"):  # fmt: skip
        assert getattr(found, name) == default[name].default


def test_webhooks_are_signed_with_a_secret_that_only_the_api_holds() -> None:
    objects = rendered(example("everything"))
    secret = {"secretKeyRef": {"name": "webhooks", "key": "webhook-secret"}}
    for found in kinds(objects, "Deployment"):
        given = environment(found).get("SPECTRAIN_WEBHOOK_SECRET")
        assert given == (secret if found["metadata"]["name"].endswith("-api") else None)


def way_of_webhooks(values: Values | None = None) -> list[Object]:
    policy = one(rendered(values), "NetworkPolicy", "-api")
    return [rule for rule in policy["spec"]["egress"] if rule["ports"][0]["port"] == 443]


def allows(peers: list[Any], address: str) -> bool:
    found = ip_address(address)
    blocks = [peer["ipBlock"] for peer in peers]
    return any(
        found in ip_network(block["cidr"])
        and not any(found in ip_network(part) for part in block.get("except", []))
        for block in blocks
        if ip_network(block["cidr"]).version == found.version
    )


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2606:4700::1111", "10.0.0.7", "127.0.0.1", "169.254.169.254", "172.16.0.1",
     "192.168.1.1", "100.64.0.1", "fd00::1", "fe80::1", "::1"],
)  # fmt: skip
def test_by_default_webhooks_reach_the_internet_and_nothing_else(address: str) -> None:
    (rule,) = way_of_webhooks()
    assert allows(rule["to"], address) == is_global(address)


def test_webhooks_reach_what_the_values_say() -> None:
    assert way_of_webhooks({"networkPolicy": {"webhooksTo": []}}) == []
    inside = {"podSelector": {"matchLabels": {"app": "mattermost"}}}
    values = {"networkPolicy": {"webhooksTo": [inside], "webhooksPorts": [8065]}}
    policy = one(rendered(values), "NetworkPolicy", "-api")
    ports = [{"port": 8065, "protocol": "TCP"}]
    assert {"ports": ports, "to": [inside]} in policy["spec"]["egress"]
    assert str(8065) not in str(one(rendered(values), "NetworkPolicy", "-worker"))


def test_no_webhook_leaves_a_worker() -> None:
    worker = one(rendered(), "NetworkPolicy", "-worker")
    assert "0.0.0.0/0" not in str(worker)
