"""The API answers whatever its own description allows to send, and whatever it does not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.local.redis_server import free_port
from jobs.model.states import Reason
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from tests.integration.fuzzing import Fuzzer, run
from tests.integration.http_calls import UNKNOWN, MakeApp, run_to, submitted

TOKEN = "a-token-of-the-fuzzed-service"
FEW, MANY = 700, 4000


def runs(settings: Settings, store: JobStore, http: FlaskClient) -> list[str]:
    """Jobs in several states, two of them with the files of a run."""
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60)
    for worker in ("w1", "w2"):
        registry.renew(worker, pool="default", host="h", gpus=["L4"])
    ids = []
    for reason in (Reason.COMPLETED, Reason.DIVERGED, Reason.PREEMPTED):
        ids.append(str(submitted(http, labels={"a": "b"}, priority=9)["id"]))
        run_to(store, reason)
    ids += [str(submitted(http)["id"]) for _ in range(2)]
    store.claim("default", "w2")
    for job in ids[:2]:
        root = Path(settings.storage_url.removeprefix("file://")) / job
        (root / "logs").mkdir(parents=True)
        (root / "logs/output.log").write_bytes("[1] one\n[1] two ∿ \x1b[31m\n".encode() + b"\xff\n")
        rows: list[dict[str, Any]] = [
            {"step": step, "timestamp": step / 2, "loss": 1 / (step + 1)} for step in range(40)
        ]
        rows += [{"step": 40, "loss": float("nan"), "deep": [[[]]]}]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "logs/metrics.jsonl").write_text(text + '{"step": 41, "lo')
        (root / "config.json").write_text('{"software": {"python": "3"}, "hardware": NaN}')
        (root / "evil.html").write_text("<script>alert(1)</script>")
    return ids


def fuzzer_of(http: FlaskClient, ids: list[str], token: str = "") -> Fuzzer:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    description = http.get("/v1/openapi.json", headers=headers).get_json()
    known = {
        "job_id": [*ids, UNKNOWN], "other": ids, "job": ids, "name": ["w1", "default", "none"],
        "path": ["logs/output.log", "evil.html", "config.json", "none"],
        "sha256": ["0" * 64], "token_id": ["none"], "keys": ["loss", "none"],
        "If-None-Match": ['"metrics.jsonl-0-00000000"', "*"],
        "prefix": ["logs/", "x"], "Range": ["bytes=0-3", "bytes=-5", "bytes=99999-", "x=1"],
    }  # fmt: skip
    # With the first token, a service without any would begin to ask for one.
    return Fuzzer(description, known, token, frozenset() if token else {"create_token"})


def check(fuzzer: Fuzzer, http: FlaskClient, numbers: range) -> None:
    found = run(fuzzer, http, numbers)
    print(f"{sum(fuzzer.statuses.values())} cases: {sorted(fuzzer.statuses.items())}")
    assert not found, "\n\n".join(found[:20])


@pytest.mark.parametrize(
    "count", [FEW, pytest.param(MANY, marks=pytest.mark.thorough)], ids=["few", "many"]
)
@pytest.mark.parametrize("token", ["", TOKEN], ids=["without a token", "with tokens"])
def test_no_request_breaks_the_description(
    settings: Settings, store: JobStore, make_app: MakeApp, token: str, count: int
) -> None:
    open_app = make_app(settings).test_client()
    ids = runs(settings, store, open_app)
    http = make_app(settings.model_copy(update={"api_tokens": token})).test_client()
    fuzzer = fuzzer_of(http, ids, token)
    check(fuzzer, http, range(count))
    assert {200, 201, 202, 204, 404, 409, 422} <= fuzzer.statuses.keys(), "the cases are too poor"
    assert not token or fuzzer.statuses[401] > 1


@pytest.mark.parametrize(
    "count", [FEW // 4, pytest.param(MANY // 4, marks=pytest.mark.thorough)], ids=["few", "many"]
)
@pytest.mark.parametrize("away", ["Redis", "storage"])
def test_without_a_part_that_it_needs_it_says_so(
    settings: Settings, store: JobStore, make_app: MakeApp, away: str, count: int, tmp_path: Path
) -> None:
    ids = runs(settings, store, make_app(settings).test_client())
    if away == "Redis":
        gone = f"redis://127.0.0.1:{free_port()}/0"
        http = make_app(settings.model_copy(update={"redis_url": gone})).test_client()
    else:
        http = make_app(settings).test_client()
        root = Path(settings.storage_url.removeprefix("file://"))
        os.rename(root, tmp_path / "elsewhere")  # noqa: PTH104
        root.write_text("the volume is not mounted")
    fuzzer = fuzzer_of(http, ids)
    check(fuzzer, http, range(count))
    assert fuzzer.statuses[503] > 0
