"""Workers of the chart have a user of Redis that can do what a worker does."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import pytest

from jobs.redis_users import rules
from tests.unit.helm.chart import Values, container, environment, one, rendered, worker

BY_REFERENCE = "secretKeyRef"


def configured(values: Values) -> str:
    """What the command of Redis adds to its configuration."""
    command = container(one(rendered(values), "StatefulSet", "-redis"))["command"][-1]
    return str(command).partition("<<END\n")[2]


@pytest.mark.parametrize("prefix", ["spectrain:", "ml:"])
def test_the_rules_are_those_of_the_service(prefix: str) -> None:
    expected = f"user spectrain-worker on >$WORKER_PASSWORD {rules('worker', prefix)}"
    assert expected in configured({"settings": {"redisPrefix": prefix}}).splitlines()


def test_a_worker_has_its_own_password_and_the_api_that_of_everything() -> None:
    objects = rendered()
    for found, user, key in [
        (worker(objects), "spectrain-worker", "redis-worker-password"),
        (one(objects, "Deployment", "-api"), "", "redis-password"),
    ]:
        env = environment(found)
        assert urlsplit(env["SPECTRAIN_REDIS_URL"]).username == user
        assert env["SPECTRAIN_REDIS_PASSWORD"][BY_REFERENCE]["key"] == key
        assert str(env).count("'prod-spectrain-redis'") == 1, "and no other of that Secret"
    redis = environment(one(objects, "StatefulSet", "-redis"))
    assert redis["WORKER_PASSWORD"][BY_REFERENCE]["key"] == "redis-worker-password"
    wanted = json.loads(environment(one(objects, "Job", "-secrets"))["SECRETS"])
    (secret,) = [one["random"] for one in wanted if one["name"].endswith("-redis")]
    assert secret == ["redis-password", "redis-worker-password"]


def test_a_secret_of_your_own_needs_no_second_password_and_may_have_one() -> None:
    shared: Values = {"redis": {"existingSecret": "mine"}}
    assert "user " not in configured(shared)
    env = environment(worker(rendered(shared)))
    assert urlsplit(env["SPECTRAIN_REDIS_URL"]).username == ""
    assert env["SPECTRAIN_REDIS_PASSWORD"][BY_REFERENCE] == {
        "name": "mine",
        "key": "redis-password",
    }
    own: Values = {"redis": {"existingSecret": "mine", "workerPasswordKey": "of-workers"}}
    assert "user spectrain-worker " in configured(own)
    env = environment(worker(rendered(own)))
    assert env["SPECTRAIN_REDIS_PASSWORD"][BY_REFERENCE] == {"name": "mine", "key": "of-workers"}
