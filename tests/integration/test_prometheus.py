"""What Prometheus reads at /metrics, and that alerts and dashboard ask for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
import yaml
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from api.local.redis_server import free_port
from api.server.app import create_app
from api.server.context import EXTENSION
from jobs.messages import Messenger
from jobs.model.record import Progress
from jobs.model.rules import lost_attempt
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request
from jobs.reaper.reaper import Reaper
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from tests.unit.helm.chart import CHART, kinds, rendered

SPEC = JobSpec(name="a", command=["true"])
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def http(settings: Settings) -> Iterator[FlaskClient]:
    Path(settings.storage_url.removeprefix("file://")).mkdir(exist_ok=True)
    app = create_app(settings)
    yield app.test_client()
    app.extensions[EXTENSION].close()


def samples(http: FlaskClient) -> Samples:
    answer = http.get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.text)
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


def of(found: Samples, name: str, **labels: str) -> float:
    return found[f"spectrain_{name}", frozenset(labels.items())]


def test_a_scrape_tells_of_queues_workers_ends_losses_and_requests(
    http: FlaskClient, store: JobStore, settings: Settings
) -> None:
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60)
    registry.renew("w", pool="default", host="h", gpus=["A", "B"])
    registry.renew("u", pool="default", host="h", gpus=["C"], unhealthy="Xid 79")
    for _ in range(4):
        store.submit(SPEC)
    first = store.claim("default", "w")
    assert first is not None
    seen = Progress(first_step=0, step=9, step_seconds=5.0, checkpoint_step=4)
    store.renew(first.id, 1, seen)
    first = store.get(first.id)
    store.finish(first.id, lost_attempt(first, store.now(), 17.0))
    again = store.claim("default", "w")
    assert again is not None
    assert again.current is not None
    done = again.so_far(again.current, Progress(first_step=5, step=14, step_seconds=4.0))
    done = done.model_copy(update={"reason": Reason.COMPLETED, "ended_at": store.now()})
    for _ in range(2):  # the answer was lost on the way: it counts once
        store.finish(again.id, done)
    store.claim("default", "w")
    last = next(iter(store.newest()))
    store.request(last.id, Request.CANCEL)
    messenger = Messenger(settings, store)
    Reaper(store, messenger, lambda _: None).run_once()
    messenger.close()
    http.get("/v1/jobs/none-23456789")
    found = samples(http)
    assert of(found, "up", part="redis") == of(found, "up", part="storage") == 1
    assert of(found, "jobs", state="queued") == 1
    assert of(found, "jobs_ended_total", state="cancelled", reason="cancelled") == 1
    assert of(found, "jobs_ended_total", state="failed", reason="lost") == 0, "it is there"
    assert of(found, "pool_jobs", pool="default", state="running") == 1
    assert of(found, "pool_wanted", pool="default") == 2
    assert of(found, "workers", pool="default", state="busy") == 1
    assert of(found, "gpus", pool="default", state="busy") == 2
    assert of(found, "gpus", pool="default", state="unhealthy") == 1
    assert of(found, "jobs_submitted_total") == 4
    assert of(found, "attempts_ended_total", reason="lost") == 1
    assert of(found, "attempts_ended_total", reason="completed") == 1
    assert of(found, "jobs_ended_total", state="succeeded", reason="completed") == 1
    assert of(found, "steps_total") == 20
    assert of(found, "steps_recomputed_total") == 5
    assert of(found, "useful_seconds_total") == pytest.approx(5.0 + 4.0 / 2)
    assert of(found, "detection_seconds_bucket", le="15.0") == 0
    assert of(found, "detection_seconds_bucket", le="20.0") == 1
    assert of(found, "detection_seconds_sum") == 17
    assert of(found, "queue_seconds_count") == 2
    assert 0 <= of(found, "reaper_pass_age_seconds") < 60
    assert of(found, "dirty_records") == 4
    labels = {"method": "GET", "route": "/v1/jobs/<job_id:job_id>", "status": "404"}
    assert of(found, "request_seconds_count", **labels) == 1


def test_a_scrape_costs_the_same_however_many_jobs_there_are(
    http: FlaskClient, store: JobStore
) -> None:
    def cost() -> int:
        before = store.redis.info("stats")["total_commands_processed"]
        samples(http)
        return int(store.redis.info("stats")["total_commands_processed"] - before)

    store.submit(SPEC)
    cost()
    few = cost()
    for _ in range(50):
        store.submit(SPEC)
    assert cost() <= few


def test_without_redis_a_scrape_says_so(settings: Settings) -> None:
    away = {"redis_url": f"redis://127.0.0.1:{free_port()}"}
    app = create_app(settings.model_copy(update=away))
    found = samples(app.test_client())
    assert of(found, "up", part="redis") == 0
    app.extensions[EXTENSION].close()


def test_the_metrics_are_for_bearers_of_a_token(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"api_tokens": "secret-of-sixteen-or-more"}))
    http = app.test_client()
    assert http.get("/metrics").status_code == 401
    answer = http.get("/metrics", headers={"Authorization": "Bearer secret-of-sixteen-or-more"})
    assert answer.status_code == 200
    app.extensions[EXTENSION].close()


# -- what asks for them ---------------------------------------------------------------------------


def asked() -> dict[str, str]:
    """Every expression of the alerts and of the dashboard, by where it is."""
    found = {}
    values = {"monitoring": {"prometheusRule": {"enabled": True}}}
    (rule,) = kinds(rendered(values), "PrometheusRule")
    for group in rule["spec"]["groups"]:
        for alert in group["rules"]:
            found[alert["alert"]] = alert["expr"]
    dashboard = json.loads((CHART / "files/dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    return found


def test_alerts_and_dashboard_are_promql_and_ask_for_what_is_served(
    http: FlaskClient, store: JobStore
) -> None:
    store.submit(SPEC)
    job = store.claim("default", "w")
    assert job is not None
    store.finish(job.id, lost_attempt(job, store.now(), 1.0))
    http.get("/healthz")
    served = {name for name, _ in samples(http)} | {"up"}
    expressions = asked()
    assert len(expressions) > 15
    for where, expression in expressions.items():
        plain = expression.replace("$__rate_interval", "5m").replace("$pool", ".*")
        promql_parser.parse(plain)
        names = set(re.findall(r"\b(spectrain_\w+)", plain))
        assert names, where
        assert names <= served, where


def test_labels_that_are_asked_for_are_served(http: FlaskClient, store: JobStore) -> None:
    store.submit(SPEC)
    job = store.claim("default", "w")
    assert job is not None
    store.finish(job.id, lost_attempt(job, store.now(), 1.0))
    http.get("/healthz")
    labels: dict[str, set[str]] = {}
    for name, pairs in samples(http):
        labels.setdefault(name, {"job", "namespace", "instance"}).update(k for k, _ in pairs)
    for where, expression in asked().items():
        for name, inside in re.findall(r"(spectrain_\w+)\{([^}]*)\}", expression):
            used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside))
            assert used <= labels[name], where


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads((CHART / "files/dashboard.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert dashboard["uid"]
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    (source,) = [v for v in dashboard["templating"]["list"] if v["type"] == "datasource"]
    assert source["name"] == "datasource"
    assert yaml.safe_dump(dashboard)
