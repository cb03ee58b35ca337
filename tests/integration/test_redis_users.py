"""API, workers and reaper have a user of Redis each, who can do what they do, and no more."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from api.cli.main import cli
from bench.system.service import redis_server
from jobs.redis_users import _KEYS, ROLES, Role, rules
from jobs.settings import Settings, connect
from jobs.store.keys import Keys
from jobs.store.keys import __doc__ as table_of_keys
from machine.python import python_module
from tests.integration.http_calls import MakeApp
from tests.integration.one_worker import worker_settings
from tests.integration.warm_python import WarmPython
from tests.integration.worker_processes import Workers

Wait = Callable[..., Any]
# One pass and a bit of a program that saves when it is told to, and is not done before.
PATIENT = (
    "import os, signal, sys, time\n"
    "if os.environ['SPECTRAIN_ATTEMPT'] != '1': sys.exit()\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
    "print('up', flush=True); time.sleep(600)\n"
)
REFUSED = [
    "CONFIG GET requirepass", "CONFIG SET requirepass x", "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0",
    "RANDOMKEY", "ACL LIST", "ACL SETUSER me on", "DEBUG SLEEP 0", "SHUTDOWN", "MONITOR", "SAVE",
    "REPLICAOF 127.0.0.1 1", "MODULE LIST", "CLIENT KILL ID 1", "SCRIPT FLUSH", "FUNCTION LIST",
    "SLOWLOG GET", "LATENCY RESET", "SWAPDB 0 1", "MIGRATE h 1 k 0 1", "GET spectrain:tokens",
    "HGETALL spectrain:tokens:all", "HSET spectrain:token:x a b", "GET spectrain:sessions",
    "HGETALL spectrain:idempotency::x", "GET other:key", "SET other:key x",
    "EVAL return(redis.call('get','spectrain:tokens')) 0", "PUBLISH other x", "SUBSCRIBE other",
]  # fmt: skip


@pytest.fixture
def users(tmp_path: Path) -> Iterator[tuple[Redis, dict[Role, Settings]]]:
    """A Redis with the users, as its administrator sees it, and the settings of each part."""
    printed = CliRunner().invoke(cli, ["redis-acl"]).output.splitlines()
    with redis_server(tmp_path) as config, Redis.from_url(config.url) as admin:
        for line in printed:
            admin.execute_command(*line.replace(">PASSWORD", ">pw").split())
        yield (
            admin,
            {
                role: Settings(
                    redis_url=f"redis://spectrain-{role}:pw@127.0.0.1:{config.port}/0",
                    storage_url=(tmp_path / "experiments").as_uri(),
                    scratch_dir=tmp_path / "scratch",
                    device="cpu",
                    lease_seconds=3,
                )
                for role in ROLES
            },
        )


def test_each_part_works_under_its_user_through_a_whole_job(
    users: tuple[Redis, dict[Role, Settings]],
    make_app: MakeApp,
    warm_python: WarmPython,
    wait_until: Wait,
) -> None:
    admin, settings = users
    http = make_app(settings["api"]).test_client()
    workers = Workers(settings["worker"], warm_python)
    env = {**os.environ, **worker_settings(settings["reaper"])}
    reaper = subprocess.Popen(python_module("api.ops.reaper"), env=env, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: admin.exists(Keys("spectrain:").reaper), what="the reaper")
        first = workers.start()
        command = ["python", "-c", PATIENT]
        job = http.post("/v1/jobs", json={"name": "a", "command": command}).get_json()["id"]

        def now() -> dict[str, Any]:
            return dict(http.get(f"/v1/jobs/{job}").get_json())

        def log() -> str:
            return http.get(f"/v1/jobs/{job}/logs").get_data(as_text=True)

        wait_until(lambda: "up" in log(), what="its start")
        assert http.post(f"/v1/jobs/{job}/preempt").status_code == 202
        wait_until(lambda: now()["state"] == "succeeded", what="its end")
        assert [one["reason"] for one in now()["attempts"]] == ["preempted", "completed"]
        # One whose worker is killed: the reaper alone finds it, and another worker goes on.
        lost = http.post("/v1/jobs", json={"name": "b", "command": command}).get_json()["id"]
        wait_until(
            lambda: http.get(f"/v1/jobs/{lost}").get_json()["state"] == "running", what="its start"
        )
        os.kill(first.pid, signal.SIGKILL)
        workers.start()
        wait_until(
            lambda: http.get(f"/v1/jobs/{lost}").get_json()["state"] == "succeeded", what="its end"
        )
        assert http.delete(f"/v1/jobs/{job}?files=true").status_code in {200, 202, 204}
        assert http.get("/readyz").status_code == 200
        assert "Traceback" not in workers.logs()
        denied = {(entry["username"], entry["object"]) for entry in admin.acl_log()}
        # redis-py says its own name and version where it may, and goes on where not.
        assert {command for _, command in denied} <= {"client"}, denied
    finally:
        workers.stop()
        reaper.terminate()
        _, errors = reaper.communicate(timeout=30)
    assert b"NOPERM" not in errors, errors.decode()


@pytest.mark.parametrize("role", ["worker", "reaper"])
def test_a_workers_user_can_do_nothing_else(
    users: tuple[Redis, dict[Role, Settings]], role: Role
) -> None:
    _, settings = users
    with connect(settings[role]) as redis:
        assert redis.ping()
        for command in REFUSED:
            with pytest.raises((NoPermissionError, ResponseError)) as refused:
                redis.execute_command(*command.split())
            text = str(refused.value)
            # A command of a later Redis; what a script may not do.
            others = "unknown command" in text or "can't access at least one of the keys" in text
            assert isinstance(refused.value, NoPermissionError) or others, f"{command}: {text}"


def test_each_key_of_the_service_is_some_parts() -> None:
    assert table_of_keys is not None
    keys = set(re.findall(r"^\| `([\w:]+)", table_of_keys, re.M))
    of_workers = {pattern.removesuffix("*").rstrip(":") for pattern in _KEYS["worker"]}
    of_the_api = {"audit", "idempotency", "sequence", "tokens", "tokens:used", "tokens:version"}
    channels = {"requests"}
    grouped = {"job", "jobs", "notices"}
    heads = {key: key.partition(":")[0] for key in keys}
    named = {head if head in grouped else key.rstrip(":") for key, head in heads.items()}
    undecided = named - of_workers - channels - of_the_api
    assert not undecided, "a new key needs a decision: jobs/redis_users.py"


def test_another_prefix_has_other_keys() -> None:
    assert "~mine:job:*" in rules("worker", "mine:")
    assert "spectrain:" not in rules("worker", "mine:")
